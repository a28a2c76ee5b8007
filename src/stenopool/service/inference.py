"""The process of a user's `inference.py`: SageMaker's four functions, ours where one is not given.

    model_fn(model_dir)                     the model, once
    input_fn(body, content_type)            what `predict_fn` is given: the body is bytes
    predict_fn(data, model)                 the prediction
    output_fn(prediction, accept)           the answer, or a pair of it and its media type

Where `input_fn` is not given, the data are `{"path": …, "options": {…}}`: a recording on this
machine and what is to be different from the defaults of `Options`. Where `model_fn` is not given,
the model is a `Served`. Where `predict_fn` is not given, the prediction is a `Transcript`.

The parent writes a JSON object a line: `{"ask": id, "accept", "data"}` or `{"ask": id, "accept",
"body": path, "content_type"}`, and `{"heard": id, "transcript" | "error"}`. The answers are lines
too: `{"ready": names}` once, `{"hear": id, "ask", "path", "options"}` for what the server is to
transcribe, `{"ask": id, "answer": base64, "type"}` or `{"ask": id, "error"}`. The user's code runs
one function at a time; while the server transcribes, others go on.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import IO, Any, ClassVar

from stenopool.decoding.options import Options
from stenopool.errors import EngineError, StenoError, UsageError, restored
from stenopool.pipeline.desk import AT_ONCE
from stenopool.pipeline.job import changes
from stenopool.transcript import Transcript
from stenopool.writers import render

MEDIA = {  # of answers, and the format of the document
    "application/json": "json",
    "text/plain": "txt",
    "text/vtt": "vtt",
    "application/x-subrip": "srt",
}
FUNCTIONS = ("model_fn", "input_fn", "predict_fn", "output_fn")

log = logging.getLogger(__name__)


class InferenceFailed(EngineError):  # noqa: N818  the names say what happened
    """A function of the user's `inference.py` failed."""

    code: ClassVar[str] = "inference_failed"


class Served:
    """The model that the server runs, as `predict_fn` sees it."""

    def __init__(self, hear: Callable[[Path, Mapping[str, Any]], Transcript]) -> None:
        self._hear = hear

    def transcribe(
        self, path: str | Path, options: Options | Mapping[str, Any] | None = None
    ) -> Transcript:
        """The transcript of a recording.

        Raises:
            StenoError: by name, as with `stenopool.Transcriber`.
        """
        given = changes(options) if isinstance(options, Options) else dict(options or {})
        return self._hear(Path(path), given)


def predict_fn(data: Any, model: Any) -> Any:  # noqa: ANN401  whatever the others give
    """The transcript of a path, of bytes, or of `{"path": …, "options": {…}}`.

    Args:
        model: a `Served`, or what has a method like its `transcribe`.

    Raises:
        UsageError: the data are none of these.
    """
    if isinstance(data, bytes):
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            return model.transcribe(file.name, Options())
    if isinstance(data, str | Path):
        data = {"path": data}
    if not isinstance(data, Mapping) or "path" not in data:
        raise UsageError(
            f"`input_fn` gave a {type(data).__name__}, which is no recording",
            do="Give a path, bytes or `{'path': …}`, or give a `predict_fn` too",
        )
    return model.transcribe(data["path"], Options.of(**data.get("options", {})))


def output_fn(prediction: Any, accept: str) -> tuple[bytes | str, str]:  # noqa: ANN401
    """A transcript in the format that is wanted; text and bytes as they are; else JSON.

    Raises:
        UsageError: the prediction is none of these.
    """
    if isinstance(prediction, Transcript):
        kind = accept if accept in MEDIA else "application/json"
        charset = "" if kind == "application/json" else "; charset=utf-8"
        return render(prediction, MEDIA[kind]), kind + charset
    if isinstance(prediction, str | bytes):
        return prediction, accept
    try:
        return json.dumps(prediction, ensure_ascii=False), "application/json"
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"`predict_fn` gave a {type(prediction).__name__}, which is no JSON",
            do="Give what JSON has, or give an `output_fn` too",
        ) from error


class Inference:
    """The functions at work.

    Args:
        tell: writes a line to the parent.
    """

    def __init__(self, module: ModuleType, model_dir: Path, tell: Callable[..., None]) -> None:
        self.given = [name for name in FUNCTIONS if _function(module, name)]
        self._module = module
        self._tell = tell
        self._turn = threading.Lock()  # users' functions need not be made for several threads
        self._local = threading.local()
        self._heard: dict[str, Future[Transcript]] = {}
        self._numbers = count()
        self._own = self._call("model_fn", str(model_dir)) if "model_fn" in self.given else None
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="steno-inference")

    def take(self, said: dict[str, Any]) -> None:
        """Something that the parent has written."""
        if "ask" in said:
            self._threads.submit(self._answer, said)
        elif future := self._heard.pop(said["heard"], None):
            if "error" in said:
                future.set_exception(restored(said["error"]))
            else:
                future.set_result(Transcript.from_dict(said["transcript"]))

    def _answer(self, said: dict[str, Any]) -> None:
        try:
            content, media = self._answered(said)
        except Exception as error:  # noqa: BLE001  the user's code; the process goes on
            self._tell(ask=said["ask"], error=_record(error))
        else:
            data = content.encode() if isinstance(content, str) else content
            self._tell(ask=said["ask"], answer=base64.b64encode(data).decode(), type=media)

    def _answered(self, said: dict[str, Any]) -> tuple[bytes | str, str]:
        accept = str(said["accept"])
        data = said.get("data")
        if "body" in said:
            data = self._call("input_fn", Path(said["body"]).read_bytes(), said["content_type"])
        model = self._own if "model_fn" in self.given else Served(self._hearing(said["ask"]))
        if "predict_fn" in self.given:
            prediction = self._call("predict_fn", data, model)
        else:
            prediction = predict_fn(data, model)
        if "output_fn" not in self.given:
            return output_fn(prediction, accept)
        output = self._call("output_fn", prediction, accept)
        return output if isinstance(output, tuple) else output_fn(output, accept)

    def _call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401
        with self._turn:
            self._local.has_turn = True
            try:
                return getattr(self._module, name)(*arguments)
            except StenoError:
                raise
            except Exception as error:
                log.exception("`%s` of `inference.py`", name)
                raise InferenceFailed(
                    f"`{name}` raised {type(error).__name__}: {error}", do="See the server's log"
                ) from error
            finally:
                self._local.has_turn = False

    def _hearing(self, ask: str) -> Callable[[Path, Mapping[str, Any]], Transcript]:
        def hear(path: Path, options: Mapping[str, Any]) -> Transcript:
            id, future = str(next(self._numbers)), Future[Transcript]()
            self._heard[id] = future
            self._tell(hear=id, ask=ask, path=str(path), options=dict(options))
            with self._turn_given_up():
                return future.result()

        return hear

    @contextmanager
    def _turn_given_up(self) -> Iterator[None]:
        """Others may go on meanwhile, if it is a function of the user's that waits."""
        had_turn = getattr(self._local, "has_turn", False)
        if had_turn:
            self._turn.release()
        try:
            yield
        finally:
            if had_turn:
                self._turn.acquire()


def loaded(program: Path) -> ModuleType:
    """The user's module; modules beside it can be imported.

    Raises:
        InferenceFailed: it cannot be imported.
    """
    sys.path.insert(0, str(program.parent))
    spec = importlib.util.spec_from_file_location("inference", program)
    if spec is None or spec.loader is None:
        raise InferenceFailed(f"`{program.name}` is no Python file", do="Name one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["inference"] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        log.exception("`%s`", program)
        raise InferenceFailed(
            f"`{program.name}` raised {type(error).__name__}: {error}", do="See the server's log"
        ) from error
    return module


def _function(module: ModuleType, name: str) -> bool:
    found = getattr(module, name, None)
    if found is not None and not callable(found):
        raise InferenceFailed(f"`{name}` is no function", do="Define it with `def`")
    return found is not None


def _record(error: Exception) -> dict[str, object]:
    if isinstance(error, StenoError):
        return error.record()
    log.error("inference failed", exc_info=error)
    what = f"{type(error).__name__}: {error}"
    return InferenceFailed(what, do="See the server's log").record()


def main(program: Path, model_dir: Path) -> None:
    """The process. What it tells its parent goes to stdout, and nothing else does."""
    parent: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO)
    lock = threading.Lock()

    def tell(**what: object) -> None:
        line = json.dumps(what) + "\n"
        with lock:
            parent.write(line)
            parent.flush()

    try:
        inference = Inference(loaded(program), model_dir, tell)
    except StenoError as error:
        tell(failed=error.record())
        os._exit(1)
    tell(ready=inference.given)
    for line in sys.stdin:
        inference.take(json.loads(line))
    os._exit(0)  # the parent has gone; threads of the user's need not end


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
