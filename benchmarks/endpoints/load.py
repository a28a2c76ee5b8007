"""Clients that send clips one after the other, beside the same engine offline and a peer."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from chaos.report import Report

from . import servers

SHORTEST, LONGEST = 5.0, 15.0  # seconds of a clip
OFFLINE_ROUNDS = 2
PEER_SECONDS = 60.0
LEAST_OF_OFFLINE, LEAST_OF_PEER = 0.8, 3.0
TOO_MANY = 429

OFFLINE = """
import json, sys, time
from stenopool import Options, Transcriber
model, *paths = json.loads(sys.stdin.read())
transcriber, options = Transcriber(model), Options(language="en")
transcriber.transcribe(paths[0], options)
begun = time.perf_counter()
for one in transcriber.transcribe_many(paths, options):
    if isinstance(one, Exception):
        raise one
print(time.perf_counter() - begun)
"""


@dataclass(frozen=True)
class Clip:
    """A recording of one utterance."""

    path: Path
    seconds: float


@dataclass
class Load:
    """What clients have met.

    Attributes:
        latencies: seconds, of each answer.
        audio: seconds, of all answers.
        statuses: of answers that are not 200.
        seconds: from the first request to the last answer.
    """

    latencies: list[float] = field(default_factory=list)
    audio: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Seconds of audio a second."""
        return self.audio / self.seconds

    def figures(self) -> dict[str, Any]:
        half, most = np.percentile(self.latencies, [50, 95])
        return {
            "audio s/s": round(self.rate, 1),
            "requests": len(self.latencies),
            "median s": round(float(half), 2),
            "p95 s": round(float(most), 2),
            "refused": self.statuses[TOO_MANY],
        }


def measure(arguments: argparse.Namespace, folder: Path) -> Report:
    """Offline, under load, the peer, and offline again."""
    report = Report(f"Load on `{arguments.model}`, clips of {SHORTEST:.0f} to {LONGEST:.0f} s")
    clips = clips_of(arguments.data)[: arguments.clips]
    before = offline(arguments.model, clips)
    last = Load()
    with servers.steno(folder, arguments.model) as port:
        asyncio.run(loaded(port, clips, 2, 5.0))  # the model is loaded and warm
        for clients in arguments.clients:
            is_last = clients == arguments.clients[-1]
            seconds = arguments.last_seconds if is_last else arguments.seconds
            last = asyncio.run(loaded(port, clips, clients, seconds))
            report.figures[f"{clients} clients"] = last.figures()
            strange = {key: n for key, n in last.statuses.items() if key != TOO_MANY}
            report.require(not strange, f"{clients} clients: answers {strange}")
    rates = [*before, *offline(arguments.model, clips)]
    report.figures["offline, audio s/s"] = [round(one, 1) for one in rates]
    share = last.rate / float(np.median(rates))
    report.figures["share of offline"] = share
    report.require(share >= LEAST_OF_OFFLINE, f"below {LEAST_OF_OFFLINE} of the offline rate")
    if arguments.peer_python:
        with servers.peer(folder, arguments.peer_python, arguments.peer_model) as port:
            asyncio.run(loaded(port, clips, 2, 5.0))
            theirs = asyncio.run(loaded(port, clips, arguments.clients[-1], PEER_SECONDS))
        report.figures["faster-whisper behind FastAPI"] = theirs.figures()
        report.figures["times its rate"] = last.rate / theirs.rate
        held = last.rate / theirs.rate >= LEAST_OF_PEER
        report.require(held, f"below {LEAST_OF_PEER} times the peer")
    else:
        report.skipped["the peer"] = "no --peer-python"
    return report


def clips_of(manifest: Path) -> list[Clip]:
    """The utterances of a manifest that are neither short nor long."""
    entries = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return [
        Clip(manifest.parent / one["audio"], one["duration"])
        for one in entries
        if SHORTEST <= one["duration"] <= LONGEST
    ]


def offline(model: str, clips: list[Clip]) -> list[float]:
    """Seconds of audio a second that the engine transcribes from files, some times."""
    given = json.dumps([model, *(str(one.path) for one in clips)])
    audio = sum(one.seconds for one in clips)
    rates = []
    for _ in range(OFFLINE_ROUNDS):
        command = [sys.executable, "-c", OFFLINE]
        ran = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
        rates.append(audio / float(ran.stdout))
    return rates


async def loaded(port: int, clips: list[Clip], clients: int, seconds: float) -> Load:
    """So many clients, each with one request at a time, until the time is over."""
    load = Load()
    turn = itertools.cycle(clips)
    begun = time.monotonic()
    limits = httpx.Limits(max_connections=clients)
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, timeout=600, limits=limits) as client:

        async def one() -> None:
            while time.monotonic() - begun < seconds:
                await _request(client, next(turn), load)

        await asyncio.gather(*(one() for _ in range(clients)))
    load.seconds = time.monotonic() - begun
    return load


async def _request(client: httpx.AsyncClient, clip: Clip, load: Load) -> None:
    begun = time.monotonic()
    answer = await client.post(
        "/v1/audio/transcriptions",
        files={"file": (clip.path.name, clip.path.read_bytes())},
        data={"model": "whisper-1", "language": "en"},
    )
    if answer.status_code != httpx.codes.OK or not answer.json()["text"].strip():
        load.statuses[answer.status_code] += 1
        await asyncio.sleep(float(answer.headers.get("retry-after", 0)))
        return
    load.latencies.append(time.monotonic() - begun)
    load.audio += clip.seconds
