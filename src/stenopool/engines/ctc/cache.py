"""Compiled graphs kept on disk, so that the next process need not build and quantise them again.

A file is found by a hash of all that it depends on: the weights, OpenVINO, the CPU, the settings
and the source of this package. What cannot be read or written is built anew; nothing fails.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import openvino as ov

from stenopool.engines.openvino.processor import flags
from stenopool.errors import OutputError
from stenopool.files import write_whole
from stenopool.settings import settings

MOST_FILES = 8  # the least recently used go first


class Compiled:
    """The compiled graphs of one model.

    Args:
        weights: the model's file.
        options: what OpenVINO is told.
        precision: in which the graphs are built, and all else that they depend on.
    """

    def __init__(
        self,
        weights: Path,
        options: Mapping[str, str | int],
        precision: str,
    ) -> None:
        self._core, self._options = ov.Core(), dict(options)
        found = weights.stat()
        parts = [
            *(str(weights.resolve()), found.st_size, found.st_mtime_ns),
            *(ov.__version__, self._processor(), precision, sorted(options.items())),
            *(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))),
        ]
        self._key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        self._folder = settings().compiled_dir

    def _processor(self) -> str:
        """The CPU's name and features: what is compiled for one does not run on another."""
        name = self._core.get_property("CPU", "FULL_DEVICE_NAME")
        return f"{name} {' '.join(sorted(flags()))}"

    def graph(self, name: str, build: Callable[[], ov.Model]) -> ov.CompiledModel:
        """The graph of this name, built only where it is not on disk."""
        file = self._folder / f"{self._key}-{name}.blob"
        # A damaged file is OpenVINO's RuntimeError, a missing one an OSError.
        with suppress(OSError, RuntimeError):
            found = self._core.import_model(file.read_bytes(), "CPU", self._options)
            os.utime(file)
            return found
        compiled = self._core.compile_model(build(), "CPU", self._options)
        with suppress(OSError, OutputError):
            self._keep(file, compiled.export_model().getvalue())
        return compiled

    def _keep(self, file: Path, blob: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, blob)
        files = sorted(self._folder.glob("*.blob"), key=lambda one: -one.stat().st_mtime)
        for old in files[MOST_FILES:]:
            old.unlink(missing_ok=True)
