"""What decoding asks of a CTC model: probabilities of symbols, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stenopool.audio import Samples

Emissions: TypeAlias = NDArray[np.float32]
"""(frames, symbols) natural log-probabilities; each row sums to 1 in probabilities."""


class CtcEngine(Protocol):
    """One loaded model. `emissions` may be called from `workers` threads at the same time.

    Attributes:
        name: `openvino`, …
        device: `cpu`, …
        precision: of the weights in use, such as `bfloat16`.
        workers: threads that keep it busy.
        batch_size: windows in a call that it runs best.
        stride: samples from one frame to the next; frame n begins at sample n * stride.
        symbols: columns of the emissions.
        blank: the column that stands for no symbol.
    """

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def symbols(self) -> int: ...
    @property
    def blank(self) -> int: ...

    def emissions(self, samples: Sequence[Samples]) -> list[Emissions]:
        """What is said in each stretch of sound, (samples,) float32 at 16 kHz.

        It does not depend on the other stretches of the call. One that is shorter than a frame has
        none.

        Raises:
            EngineFailed: inference failed.
        """
        ...
