"""Streams of speech in real time: how long after they were spoken words are final."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import websockets
from numpy.typing import NDArray

from chaos.report import Report
from chapters import Chapter, joined_chapters
from stenopool import Options, Transcriber, Transcript
from stenopool.evaluation.normalise import normaliser
from stenopool.evaluation.score import pooled, score

from . import servers

STEP_SECONDS = 0.1  # of audio in a message
END_SECONDS = 30.0  # for the last text to come
MOST_MEDIAN, MOST_P95 = 1.5, 3.0  # seconds
MOST_WORSE = 0.01  # WER


@dataclass(frozen=True)
class Speech:
    """A recording of so many seconds, its reference and what is heard offline."""

    path: Path
    text: str
    offline: Transcript


Told = list[tuple[str, float]]  # words, and the second of the stream at which they came


@dataclass
class Heard:
    """What a client was told, and when.

    Attributes:
        told: words of each item, as they came.
        final: words of each item at its end; those that were told before count from then.
        texts: of whole utterances, by item.
        errors: messages.
        left: words that were told at the end of an item and belong to the next one: it was too long
            and was parted.
    """

    told: dict[str, Told] = field(default_factory=dict)
    final: dict[str, Told] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    left: Told = field(default_factory=list)

    def take(self, event: dict[str, Any], at: float) -> None:
        """An event of the session."""
        kind, item = event["type"], event.get("item_id", "")
        if kind.endswith(".delta"):
            words = plain_words(event["delta"])
            self.told.setdefault(item, []).extend((word, at) for word in words)
        elif kind.endswith(".completed"):
            self.texts[item] = event["transcript"]
            self.final[item] = self._dated(item, plain_words(event["transcript"]), at)
        elif kind == "error" or kind.endswith(".failed"):
            self.errors.append(json.dumps(event))

    def _dated(self, item: str, words: list[str], at: float) -> Told:
        """The words of an item that has ended, each with the time since which it has stood."""
        told = [*self.left, *self.told.get(item, [])]
        times, last = [at] * len(words), 0
        for ours, theirs in matched([word for word, _ in told], words):
            times[theirs] = told[ours][1]
            last = ours + 1
        self.left = told[last:]
        return list(zip(words, times, strict=True))


def plain_words(text: str) -> list[str]:
    """The words of a text as they are compared."""
    return normaliser("en")(text).split()


def matched(ours: list[str], theirs: list[str]) -> Iterator[tuple[int, int]]:
    """Places of equal words in two texts."""
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    for block in matcher.get_matching_blocks():
        for step in range(block.size):
            yield block.a + step, block.b + step


def measure(arguments: argparse.Namespace, folder: Path) -> Report:
    """The same recordings offline and as streams."""
    report = Report(f"Real time with `{arguments.model}`, {arguments.seconds:.0f} s a stream")
    most = max(arguments.streams)
    speech = speeches(arguments, folder)
    with servers.steno(folder, arguments.model) as port:
        asyncio.run(streamed(port, speech[0], 5.0))
        for count in arguments.streams:
            chosen = [speech[number % len(speech)] for number in range(count)]
            heard = asyncio.run(together(port, chosen, arguments.seconds))
            judged(report, f"{count} streams", chosen, heard, strict=count == most)
    return report


def speeches(arguments: argparse.Namespace, folder: Path) -> list[Speech]:
    """The beginnings of the chapters, up to whole utterances."""
    transcriber = Transcriber(arguments.model)
    found = []
    for chapter in joined_chapters(arguments.data, folder):
        path, text = _beginning(chapter, arguments.seconds)
        offline = transcriber.transcribe(path, Options(language="en"))
        found.append(Speech(path, text, offline))
    return found


def _beginning(chapter: Chapter, seconds: float) -> tuple[Path, str]:
    kept = [one for one in chapter.utterances if one.end <= seconds]
    rate = soundfile.info(chapter.path).samplerate
    samples, _ = soundfile.read(chapter.path, stop=round(kept[-1].end * rate), dtype="int16")
    path = chapter.path.with_suffix(".beginning.wav")
    soundfile.write(path, samples, rate)
    return path, " ".join(one.text for one in kept)


async def together(port: int, speech: list[Speech], seconds: float) -> list[Heard]:
    """Streams at the same time."""
    return await asyncio.gather(*(streamed(port, one, seconds) for one in speech))


async def streamed(port: int, speech: Speech, seconds: float) -> Heard:
    """One stream, as fast as it is spoken."""
    samples, rate = soundfile.read(speech.path, dtype="int16")
    samples = samples[: round(seconds * rate)]
    heard = Heard()
    address = f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription"
    async with websockets.connect(address, max_size=None) as socket:
        await socket.send(json.dumps(_session(rate)))
        begun = time.monotonic()

        async def listen() -> None:
            async for message in socket:
                heard.take(json.loads(message), time.monotonic() - begun)

        listening = asyncio.create_task(listen())
        step = round(STEP_SECONDS * rate)
        for start in range(0, len(samples), step):
            # Audio can be sent only after it was spoken.
            spoken = min(len(samples), start + step) / rate
            await asyncio.sleep(max(0.0, begun + spoken - time.monotonic()))
            await socket.send(json.dumps(_append(samples[start : start + step])))
        await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        await _quiet(heard)
        listening.cancel()
    return heard


def _session(rate: int) -> dict[str, Any]:
    sound = {
        "format": {"type": "audio/pcm", "rate": rate},
        "transcription": {"model": "whisper-1", "language": "en"},
        "turn_detection": {"type": "server_vad"},
    }
    session = {"type": "transcription", "audio": {"input": sound}}
    return {"type": "session.update", "session": session}


def _append(samples: NDArray[np.int16]) -> dict[str, str]:
    data = base64.b64encode(samples.tobytes()).decode()
    return {"type": "input_audio_buffer.append", "audio": data}


async def _quiet(heard: Heard) -> None:
    """Until nothing has come for a while."""
    until, seen = time.monotonic() + END_SECONDS, -1
    while time.monotonic() < until and seen != len(heard.texts):
        seen = len(heard.texts)
        await asyncio.sleep(5.0)


def judged(
    report: Report, name: str, speech: list[Speech], heard: list[Heard], *, strict: bool
) -> None:
    """Add the figures of one number of streams."""
    normalise = normaliser("en")
    late = [one for pair in zip(speech, heard, strict=True) for one in delays(*pair)]
    texts = [" ".join(one.texts.values()) for one in heard]
    live = pooled(
        score([one.text], text, normalise) for one, text in zip(speech, texts, strict=True)
    )
    offline = pooled(score([one.text], one.offline.text, normalise) for one in speech)
    median, most = (float(one) for one in np.percentile(late, [50, 95]))
    report.figures[name] = {
        "words": len(late),
        "median s": round(median, 2),
        "p95 s": round(most, 2),
        "WER %": round(100 * (live.wer or 0), 2),
        "offline WER %": round(100 * (offline.wer or 0), 2),
    }
    problems = [error for one in heard for error in one.errors]
    report.add(name, problems)
    if strict:
        report.require(median <= MOST_MEDIAN, f"{name}: the median is above {MOST_MEDIAN} s")
        report.require(most <= MOST_P95, f"{name}: the 95th percentile is above {MOST_P95} s")
        worse = (live.wer or 0) - (offline.wer or 0)
        report.require(worse <= MOST_WORSE, f"{name}: the WER is {100 * worse:.2f} points worse")


def delays(speech: Speech, heard: Heard) -> list[float]:
    """Seconds from the end of each word, by the offline transcript, until it was final."""
    spoken = [
        (plain, word.end)
        for segment in speech.offline.segments
        for word in segment.words
        for plain in plain_words(word.word)
    ]
    told = [word for words in heard.final.values() for word in words]
    pairs = matched([word for word, _ in spoken], [word for word, _ in told])
    return [told[theirs][1] - spoken[ours][1] for ours, theirs in pairs]
