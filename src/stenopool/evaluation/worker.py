"""The process of a `System`: `python -m stenopool.evaluation.worker REQUESTS ANSWERS`.

The two arguments are file descriptors of pipes. A request is a line of JSON with an `id` and one of

- `load`: a factory as `module:function`, with its arguments in `given`; the first request,
- `transcribe`: paths, and `together` for one call with all of them; gives an answer for each,
- `figures`: anything.

A message is a line of JSON with the `id` of its request and either `answer`, or `failed` with the
record of an error. The process ends when the pipe of the requests is closed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from stenopool.errors import EngineFailed, StenoError
from stenopool.evaluation.peers.base import Recogniser

if TYPE_CHECKING:
    from stenopool.decoding.options import Options
    from stenopool.decoding.transcriber import Transcriber

_STATUS = Path("/proc/self/status")


def main() -> None:
    """Serve requests until the pipe is closed."""
    requests, answers = (int(one) for one in sys.argv[1:3])
    queue: SimpleQueue[dict[str, Any]] = SimpleQueue()
    Thread(target=_listen, args=(requests, queue), daemon=True).start()
    recogniser: Recogniser | None = None
    load_seconds = 0.0
    while True:
        request = queue.get()
        try:
            if "load" in request:
                begun = time.perf_counter()
                recogniser = _loaded(request["load"], request["given"])
                load_seconds = time.perf_counter() - begun
                _tell(answers, request, answer={})
            elif recogniser is None:
                raise EngineFailed("no model was loaded", do="Send `load` first")
            elif "transcribe" in request:
                for answer in _answers(recogniser, [Path(path) for path in request["transcribe"]]):
                    _tell(answers, request, answer=answer)
            else:
                _tell(answers, request, answer=_figures(recogniser, load_seconds))
        except Exception as error:  # noqa: BLE001  the parent is told, and goes on or not
            _tell(answers, request, failed=_record(error, "the request"))


def _listen(requests: int, queue: SimpleQueue[dict[str, Any]]) -> None:
    """A thread of its own: nobody else notices that the parent has gone while a model runs."""
    with os.fdopen(requests, encoding="utf-8") as lines:
        for line in lines:
            queue.put(json.loads(line))
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)  # with all that it started
    os._exit(0)


def _tell(answers: int, request: Mapping[str, Any], **message: object) -> None:
    rest = memoryview(json.dumps({"id": request["id"], **message}).encode() + b"\n")
    while rest:
        rest = rest[os.write(answers, rest) :]


def _loaded(factory: str, given: Mapping[str, Any]) -> Recogniser:
    module, _, name = factory.partition(":")
    recogniser: Recogniser = getattr(import_module(module), name)(**given)
    return recogniser


def _answers(recogniser: Recogniser, paths: Sequence[Path]) -> Iterator[dict[str, object]]:
    begun = time.perf_counter()
    texts = _texts(recogniser, paths)
    for path, heard in zip(paths, texts, strict=True):
        now = time.perf_counter()
        error = _record(heard, f"`{path}`") if isinstance(heard, Exception) else None
        text = "" if isinstance(heard, Exception) else heard
        yield {"text": text, "seconds": now - begun, "error": error}
        begun = now


def _texts(recogniser: Recogniser, paths: Sequence[Path]) -> Iterator[str | Exception]:
    """As many as there are recordings: when a call fails, all that it has not done fails."""
    done = 0
    try:
        for heard in recogniser.transcribe(paths):
            yield heard
            done += 1
        failure: Exception = EngineFailed("it gave too few answers", do="Please report it")
    except Exception as error:  # noqa: BLE001  it is the answer
        failure = error
    for _ in paths[done:]:
        yield failure


def _record(error: Exception, what: str) -> dict[str, object]:
    if isinstance(error, StenoError):
        return error.record()
    traceback.print_exception(error)
    return EngineFailed(
        f"{what} failed: {type(error).__name__}: {error}", do="Look at the recording and the model"
    ).record()


def _figures(recogniser: Recogniser, load_seconds: float) -> dict[str, object]:
    return {
        "peak_memory": _peak_memory(),
        "load_seconds": load_seconds,
        "cpu_seconds": time.process_time(),
        "detail": recogniser.detail,
        "versions": {name: metadata.version(name) for name in recogniser.packages},
    }


def _peak_memory() -> int:
    """Bytes. `ru_maxrss` survives `exec`, so that a child of a large parent begins with its peak;
    what Linux tells of the address space itself does not.
    """
    if _STATUS.exists():
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        if "VmHWM" in fields:
            return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True, slots=True)
class Ours:
    """Stenopool as a recogniser; several recordings share batches."""

    detail: str
    packages: Sequence[str]
    transcriber: Transcriber
    options: Options

    def transcribe(self, paths: Sequence[Path]) -> Iterator[str | Exception]:
        if len(paths) == 1:  # as a user would: a recording alone is not made to wait for others
            yield self.transcriber.transcribe(paths[0], self.options).text
            return
        for heard in self.transcriber.transcribe_many(paths, self.options):
            yield heard if isinstance(heard, StenoError) else heard.text


def ours(
    *,
    model: str,
    folder: bool,
    engine: str,
    device: str,
    threads: int,
    options: dict[str, Any],
    attention: str = "",
    assistant: str = "",
) -> Ours:
    """Stenopool's recogniser; see `systems.ours`."""
    from stenopool.decoding.options import Options
    from stenopool.decoding.transcriber import Transcriber

    transcriber = Transcriber(
        Path(model) if folder else model,
        engine=engine,
        device=device,
        threads=threads,
        attention=attention,
        assistant=assistant or None,
    )
    chosen = Options.of(**options)
    info = transcriber.info
    beam = transcriber.resolved(chosen).beam_size
    detail = f"{info.engine} {info.precision}, beam {beam}"
    if assistant:
        detail += f", assistant {assistant}"
    return Ours(detail, ("stenopool", info.engine), transcriber, chosen)


if __name__ == "__main__":
    main()
