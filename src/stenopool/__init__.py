"""Stenopool: self-hosted speech-to-text.

    import stenopool

    transcript = stenopool.transcribe("talk.mp4")
    for segment in stenopool.stream("talk.mp4", language="en"):
        print(segment.start, segment.text)

Nothing heavy is imported before it is used: `import stenopool` loads no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from stenopool.errors import StenoError
from stenopool.transcript import Coverage, ModelInfo, Segment, Timing, Transcript, Word

if TYPE_CHECKING:
    from stenopool.decoding.options import Options
    from stenopool.decoding.transcriber import Transcriber

__version__ = "0.1.0"

__all__ = [
    "Coverage",
    "ModelInfo",
    "Options",
    "Segment",
    "StenoError",
    "Timing",
    "Transcriber",
    "Transcript",
    "Word",
    "stream",
    "transcribe",
]


def transcribe(
    path: str | Path,
    *,
    model: str | Path | None = None,
    progress: Callable[[float, float | None], None] | None = None,
    **options: Any,  # noqa: ANN401  the fields of `Options`
) -> Transcript:
    """Transcribe one recording.

    The model stays loaded for the next call. For more control, use `Transcriber`.

    Args:
        path: any audio or video file that FFmpeg reads.
        model: name of the catalogue, pulled on first use, or of a registered model; or a folder.
            `None` is the default of this machine: `base`, until another is promoted.
        progress: called with the seconds that are done and the seconds that the file claims to have
            (`None` when it claims nothing); what it raises stops the transcription.
        options: fields of `Options`, such as `language="en"` or `hotwords="Stenopool"`.

    Raises:
        StenoError: with a code, what happened and what to do.
    """
    from stenopool.decoding.options import Options

    return _transcriber(model).transcribe(path, Options.of(**options), progress=progress)


def stream(
    path: str | Path,
    *,
    model: str | Path | None = None,
    **options: Any,  # noqa: ANN401  the fields of `Options`
) -> Iterator[Segment]:
    """The segments of one recording, each as soon as it is ready. Arguments as for `transcribe`."""
    from stenopool.decoding.options import Options

    return _each(_transcriber(model).begin(path, Options.of(**options)))


def _each(segments: Iterable[Segment]) -> Iterator[Segment]:
    """A generator of its own, so that leaving a loop closes the recording at once."""
    yield from segments


def _transcriber(model: str | Path | None) -> Transcriber:
    from stenopool.models import Store

    with _LOADING:  # else threads that begin together would each load it
        return _loaded(Store().default() if model is None else model)


_LOADING = Lock()


@lru_cache(maxsize=1)
def _loaded(model: str | Path) -> Transcriber:
    from stenopool.decoding.transcriber import Transcriber

    return Transcriber(model)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> object:
    if name == "Options":
        from stenopool.decoding.options import Options

        return Options
    if name == "Transcriber":
        from stenopool.decoding.transcriber import Transcriber

        return Transcriber
    raise AttributeError(f"module `stenopool` has no attribute `{name}`")
