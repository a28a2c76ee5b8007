"""Requests that are answered at once: a worker process takes them besides the jobs of its queues.

The parent writes a JSON object a line, `{"ask": id, "path": …}`, or `{"drop": id}` when nobody
waits any more. The answers are lines as well: `segment` for each segment, then `transcript` or
`error`.
Windows of requests go before those of jobs: see `decoding.batching.Claim`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from stenopool.decoding.batching import Claim
from stenopool.decoding.options import Options
from stenopool.decoding.transcriber import Transcription, defect
from stenopool.errors import StenoError
from stenopool.pipeline.activity import Activity, Meter, Stopped

AT_ONCE = 32  # requests in one process; more wait


class Answerer(Protocol):
    """What answers requests: see `stenopool.Transcriber`."""

    def begin(
        self,
        path: str | Path,
        options: Options | None = None,
        *,
        progress: Callable[[float, float | None], None] | None = None,
        claim: Claim = ...,
    ) -> Transcription: ...


class Desk:
    """Answers the requests of one process.

    Args:
        tell: writes a line to the parent.
        changed: called when the process must tell what it is computing.
    """

    def __init__(
        self,
        answerer: Answerer,
        meter: Meter,
        tell: Callable[..., None],
        changed: Callable[[], None],
    ) -> None:
        self.active: dict[str, Activity] = {}
        self._answerer = answerer
        self._meter = meter
        self._tell = tell
        self._changed = changed
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="steno-desk")
        self._lock = threading.Lock()

    def take(self, said: dict[str, Any]) -> None:
        """Something that the parent has written."""
        if "ask" in said:
            activity = Activity(said["ask"], self._meter, self._changed, {})
            self.active[activity.id] = activity
            self._changed()
            self._threads.submit(self._answer, activity, said)
        elif (dropped := self.active.get(said.get("drop", ""))) is not None:
            dropped.stop()

    def _answer(self, activity: Activity, said: dict[str, Any]) -> None:
        try:
            self._transcribe(activity, said)
        except Stopped:
            pass
        except StenoError as error:
            self._tell(ask=activity.id, error=error.record())
        except Exception as error:  # noqa: BLE001  one request must not end the others
            self._tell(ask=activity.id, error=defect(said.get("path", ""), error).record())
        finally:
            self.active.pop(activity.id, None)
            self._changed()

    def _transcribe(self, activity: Activity, said: dict[str, Any]) -> None:
        def told(done: float, total: float | None) -> None:
            activity.check()

        claim = Claim(int(said["priority"]), str(said["owner"]))
        with activity.computing():
            options = Options.of(**said["options"])
            begun = self._answerer.begin(said["path"], options, progress=told, claim=claim)
            for segment in begun:
                activity.check()
                self._tell(ask=activity.id, segment=asdict(segment))
            transcript = begun.transcript()
        self._tell(ask=activity.id, transcript=transcript.to_dict())
