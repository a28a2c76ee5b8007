"""Any media in, 16 kHz mono windows out; log-mel; voice activity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # samples a second, of everything after decoding

Samples = NDArray[np.float32]
