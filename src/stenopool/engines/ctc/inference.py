"""Running a compiled graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import openvino as ov
from numpy.typing import NDArray

from stenopool.errors import EngineFailed


def infer(request: ov.InferRequest, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Run a graph on these inputs."""
    with failures():
        for name, values in inputs.items():
            request.set_tensor(name, ov.Tensor(values))
        request.infer()


@contextmanager
def failures() -> Iterator[None]:
    """OpenVINO's errors as ours."""
    try:
        yield
    except RuntimeError as error:
        raise EngineFailed(
            f"OpenVINO failed: {error}",
            do="Try again; if it stays, report it with what `steno doctor` prints",
        ) from error
