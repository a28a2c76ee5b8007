"""Any media in, 16 kHz mono windows out; log-mel; voice activity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # samples a second, of everything after decoding

Samples = NDArray[np.float32]


def regrouped(blocks: Iterable[Samples], size: int) -> Iterator[Samples]:
    """The same samples in arrays of `size`, the last one shorter."""
    held: list[Samples] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(held)
            whole = count - count % size
            for at in range(0, whole, size):
                yield joined[at : at + size]
            held, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(held)
