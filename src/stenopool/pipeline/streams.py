"""Streams of speech: a worker process reads them while they are spoken.

The parent writes `{"live": id, …}` with one of `open` (options and turns), `audio` (base64 of
16-bit samples at 16 kHz), `commit`, `clear` and `close`. The answers are `event`, and `heard` with
the seconds that were taken in, so that the parent knows how much is under way.
"""

from __future__ import annotations

import base64
import queue
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from stenopool.decoding.live import Live, LiveEvent, TurnDetection
from stenopool.decoding.options import Options
from stenopool.errors import StenoError

MOST_FINALS = 4  # utterances of a stream that are read at the same time; more audio waits
FULL_SCALE = np.float32(1 / 32_768)
PATIENCE_SECONDS = 60.0


class Speaker(Protocol):
    """What opens streams: see `stenopool.Transcriber`."""

    def live(
        self,
        options: Options,
        tell: Callable[[LiveEvent], None],
        turns: TurnDetection = ...,
        owner: str = ...,
    ) -> Live: ...


class Streams:
    """The streams of one process.

    Args:
        tell: writes a line to the parent.
    """

    def __init__(self, speaker: Speaker, tell: Callable[..., None]) -> None:
        self.active: dict[str, _Stream] = {}
        self._speaker = speaker
        self._tell = tell

    def take(self, said: dict[str, Any]) -> None:
        """Something that the parent has written."""
        id = str(said["live"])
        if "open" in said:
            self.active[id] = _Stream(id, said, self._speaker, self._tell, self._ended)
        elif stream := self.active.get(id):
            stream.said.put(said)

    def _ended(self, id: str) -> None:
        self.active.pop(id, None)


class _Stream:
    """One stream, on a thread of its own."""

    def __init__(
        self,
        id: str,
        opening: dict[str, Any],
        speaker: Speaker,
        tell: Callable[..., None],
        ended: Callable[[str], None],
    ) -> None:
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()
        self._id = id
        self._opening = opening
        self._speaker = speaker
        self._tell = tell
        self._ended = ended
        threading.Thread(target=self._run, name="steno-live", daemon=True).start()

    def _run(self) -> None:
        try:
            self._work()
        except StenoError as error:
            self._tell(live=self._id, error=error.record())
        except Exception as error:  # noqa: BLE001  one stream must not end the others
            record = {"code": "defect", "message": str(error), "hint": "Please report it"}
            self._tell(live=self._id, error={**record, "transient": False})
        finally:
            self._ended(self._id)
            self._tell(live=self._id, closed=True)

    def _work(self) -> None:
        given = self._opening["open"]
        options = Options.of(**given.get("options", {}))
        turns = TurnDetection(**given.get("turns", {}))
        live = self._speaker.live(options, self._told, turns, str(given.get("owner", "")))
        self._tell(live=self._id, opened=True)
        while "close" not in (said := self.said.get()):
            if "audio" in said:
                audio = np.frombuffer(base64.b64decode(said["audio"]), dtype="<i2")
                live.hear(audio.astype(np.float32) * FULL_SCALE)
                live.wait(at_most=MOST_FINALS)
                self._tell(live=self._id, heard=live.seconds)
            elif "commit" in said:
                self._tell(live=self._id, committed=live.commit())
            elif "clear" in said:
                live.clear()
        if said["close"] == "commit":
            live.commit()
        live.wait(at_most=0, seconds=PATIENCE_SECONDS)

    def _told(self, event: LiveEvent) -> None:
        self._tell(live=self._id, event=asdict(event))
