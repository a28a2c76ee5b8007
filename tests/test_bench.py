"""Turns, ratios and figures of a bench, with systems whose times are scripted."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import pytest

from stenopool.data import Part, Recording
from stenopool.errors import EngineFailed, EngineMissing, NotMedia
from stenopool.evaluation import bench as module
from stenopool.evaluation.bench import Material, Standing, bench, measured, opening
from stenopool.evaluation.bench_report import Setting, document, text
from stenopool.evaluation.machine import Machine
from stenopool.evaluation.systems import Answer, Figures, System

FIRST = Path("first")
MACHINE = Machine("A processor", 2, ("avx2", "fma"), "Linux", "3.11")
SETTING = Setting("steno bench", "tiny.en", 2, "en", 2, together=False)


@dataclass
class Scripted:
    """Takes the seconds that it is told for each recording, in the order of its turns."""

    name: str
    seconds: list[float] = field(default_factory=lambda: [1.0] * 99)
    heard: str = "the cat sat down"
    changes: bool = False  # its text, from call to call
    fails: str = ""  # names of recordings
    idling: float = 0.0  # seconds that it computes for between turns
    dies_at: int = 99  # call
    log: list[str] = field(default_factory=list)
    calls: int = 0
    cpu: float = 0.0

    def __enter__(self) -> Self:
        self.log.append(f"{self.name} enters")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.log.append(f"{self.name} leaves")

    def transcribe(self, paths: Sequence[Path], *, together: bool = False) -> Iterator[Answer]:
        self.log.append(f"{self.name} {' '.join(map(str, paths))}{' together' * together}")
        self.calls += 1
        if self.calls >= self.dies_at:
            raise EngineFailed(f"{self.name} died", do="Look")
        for path in paths:
            taken = 0.25 if path == FIRST else self.seconds.pop(0)
            self.cpu += 2 * taken
            bad = NotMedia("bad", do="Look").record() if path.name in self.fails else None
            heard = f"{self.heard} {self.calls}" if self.changes else self.heard
            yield Answer("" if bad else heard, taken, bad)

    def figures(self) -> Figures:
        if self.calls >= self.dies_at:
            raise EngineFailed(f"{self.name} died", do="Look")
        self.cpu += self.idling / 2  # asked before and after each turn
        return Figures(200_000_000, 0.5, 0.75, self.cpu, 2, "a library int8", {"library": "1.2"})


def material(*seconds: float, said: str | None = "the cat sat down") -> list[Material]:
    return [
        Material(Recording(id=name, audio=Path(name), text=said), Path(name), length)
        for name, length in zip("abcdef", seconds, strict=False)
    ]


def ran(*systems: Scripted, sound: Sequence[Material] | None = None, **more: Any) -> list[Standing]:
    given = {"rounds": 3, "language": "en", **more}
    return bench(cast("list[System]", systems), sound or material(60.0), first=FIRST, **given)


def test_all_are_loaded_first_and_the_order_rotates() -> None:
    log: list[str] = []
    ran(*(Scripted(name, log=log) for name in "ABC"))
    assert log == [
        *["A enters", "B enters", "C enters"],
        *["A first", "B first", "C first"],
        *["A a", "B a", "C a"],
        *["B a", "C a", "A a"],
        *["C a", "A a", "B a"],
        *["C leaves", "B leaves", "A leaves"],
    ]


def test_together_is_passed_on() -> None:
    log: list[str] = []
    ran(Scripted("A", log=log), sound=material(1.0, 2.0), together=True, rounds=1)
    assert "A a b together" in log


def test_ratio_is_the_median_of_the_ratios_within_rounds() -> None:
    # A slow machine in round 2 hits both; the medians of all rounds would give 6 / 4.
    ours, theirs = ran(Scripted("A", [2.0, 8.0, 4.0]), Scripted("B", [6.0, 8.0, 5.0]))
    assert ours.speed == 60 / 4
    assert theirs.speed == 60 / 6
    assert theirs.ratio(ours) == 4 / 5  # of 2/6, 8/8, 4/5
    assert ours.ratio(ours) == 1


def test_turns_know_round_place_and_computing_time() -> None:
    first, second = ran(Scripted("A", [1.0, 2.0]), Scripted("B"), rounds=2)
    assert [(turn.round, turn.place) for turn in first.turns] == [(1, 1), (2, 2)]
    assert [(turn.round, turn.place) for turn in second.turns] == [(1, 2), (2, 1)]
    assert [turn.cpu for turn in first.turns] == [2.0, 4.0]
    assert first.cold_seconds == 0.75 + 0.25


def test_errors_are_those_of_the_first_round() -> None:
    perfect, wrong = ran(
        Scripted("A", heard="The cat -- sat DOWN!"), Scripted("B", heard="the rat sat")
    )
    assert perfect.counts
    assert wrong.counts
    assert (perfect.counts.wer, wrong.counts.wer) == (0, 2 / 4)
    assert (wrong.counts.substitutions, wrong.counts.deletions) == (1, 1)


def test_references_of_parts_are_one_text() -> None:
    parts = (Part("x", 0.0, 1.0, "the cat"), Part("y", 1.0, 2.0, "sat down"))
    joined = Recording(id="j", audio=Path("j"), text="the cat sat down", parts=parts)
    (one,) = ran(Scripted("A"), sound=[Material(joined, Path("j"), 2.0)])
    assert one.counts
    assert (one.counts.words, one.counts.errors) == (4, 0)


def test_silence_and_recordings_without_reference_have_no_part_in_the_error_rate() -> None:
    silent, unknown, known = material(5.0, said="") + material(5.0, said=None) + material(5.0)
    (one,) = ran(Scripted("A"), sound=[silent, unknown, known])
    assert one.counts
    assert (one.counts.words, one.counts.errors) == (4, 0)


@pytest.mark.parametrize("said", [None, ""])
def test_without_references_there_is_no_error_rate(said: str | None) -> None:
    (one,) = ran(Scripted("A"), sound=material(5.0, said=said))
    assert one.counts is None
    assert "WER: of" not in text(document([one], material(5.0), SETTING, MACHINE))


def test_failed_recording_counts_for_errors_and_not_for_speed() -> None:
    sound = material(10.0, 1000.0)
    told: list[str] = []
    (one,) = ran(Scripted("A", [2.0, 0.5] * 3, fails="b"), sound=sound, tell=told.append)
    assert told.count("  b: error[not_media]: bad") == 3
    assert one.speed == 5.0
    assert one.turns[0].failed == {"not_media": 1}
    assert one.counts
    assert one.counts.deletions == 4
    assert "A: 3 recordings failed" in text(document([one], sound, SETTING, MACHINE))


def test_system_that_dies_is_left_out_and_named() -> None:
    told: list[str] = []
    alive, dead = ran(Scripted("A"), Scripted("B", dies_at=3), tell=told.append)
    assert (len(alive.turns), len(dead.turns)) == (3, 1)
    assert dead.figures is None
    assert dead.error
    assert dead.error["message"] == "B died"
    assert sum("B died" in line for line in told) == 2  # when it does, and in the round after
    shown = text(document([alive, dead], material(60.0), SETTING, MACHINE))
    assert "B: error[engine_failed]: B died" in shown


def test_system_that_dies_at_once_has_no_figures() -> None:
    dead, alive = ran(Scripted("A", dies_at=1), Scripted("B"))
    assert dead.turns == ()
    assert dead.speed is None
    assert alive.ratio(dead) is None
    report = document([dead, alive], material(60.0), SETTING, MACHINE)
    assert json.loads(json.dumps(report))["systems"][0]["wer"] is None
    assert any(line.split()[:2] == ["A", "-"] for line in text(report).splitlines())


def test_texts_that_change_are_told() -> None:
    changing, same = ran(Scripted("A", changes=True), Scripted("B"))
    assert (changing.steady, same.steady) == (False, True)
    shown = text(document([changing, same], material(60.0), SETTING, MACHINE))
    assert "A: its text is not the same in every round" in shown
    assert "B: its text" not in shown


def test_system_that_works_while_others_have_their_turns_is_told() -> None:
    busy, quiet = ran(Scripted("A", idling=1.0), Scripted("B"))
    assert busy.idle_cpu == pytest.approx(1.5)  # half a second before each of three turns
    assert quiet.idle_cpu == 0
    shown = text(document([busy, quiet], material(60.0), SETTING, MACHINE))
    assert "A: computed for 1.5 s while others had their turns" in shown
    assert "B: computed" not in shown


def test_system_that_cannot_be_loaded_ends_the_bench_and_the_others_are_left() -> None:
    log: list[str] = []

    class Missing(Scripted):
        def __enter__(self) -> Self:
            raise EngineMissing("not installed", do="Install it")

    with pytest.raises(EngineMissing):
        ran(Scripted("A", log=log), Missing("B", log=log))
    assert log == ["A enters", "A leaves"]


def test_table_says_what_was_measured() -> None:
    standings = ran(Scripted("A", [2.0, 3.0, 4.0]), Scripted("[b]B[/b]", heard="the cat sat"))
    lines = text(document(standings, material(60.0), SETTING, MACHINE)).splitlines()
    assert lines[0] == "A processor, 2 cores, Linux"
    assert lines[1] == "instructions: avx2 fma"
    row = next(line for line in lines if line.startswith("A  "))
    assert row.split() == [
        *["A", "20.0", "[15.0-30.0]", "1.00", "0.00", "0,", "0,", "0", "200", "0.5", "1.0", "2.00"],
        *["a", "library", "int8"],
    ]
    assert any(line.startswith("[b]B[/b]") and " 25.00 " in line for line in lines)
    assert "versions: library 1.2" in lines


def test_document_holds_every_turn() -> None:
    standings = ran(Scripted("A", [2.0, 3.0, 4.0]), Scripted("B"))
    report = json.loads(json.dumps(document(standings, material(60.0), SETTING, MACHINE)))
    assert report["schema"] == "stenopool.bench/1"
    assert report["machine"]["cpu"] == "A processor"
    assert [turn["speed"] for turn in report["systems"][0]["turns"]] == [30.0, 20.0, 15.0]
    assert report["systems"][1]["ratio"] == 3.0
    assert report["systems"][0]["counts"]["words"] == 4
    assert report["systems"][0]["figures"]["versions"] == {"library": "1.2"}


def silence(file: Path, seconds: float) -> Path:
    with wave.open(str(file), "wb") as target:
        target.setparams((1, 2, 16_000, 0, "NONE", ""))
        target.writeframes(np.zeros(round(seconds * 16_000), dtype="<i2").tobytes())
    return file


def test_length_is_counted_and_not_believed(tmp_path: Path) -> None:
    file = silence(tmp_path / "a.wav", 2.5)
    claims = Recording(id="a", audio=file, duration=9999.0)
    assert measured(claims, file).seconds == pytest.approx(2.5, abs=0.01)


def test_opening_is_no_longer_than_a_window(tmp_path: Path) -> None:
    file = silence(tmp_path / "a.wav", 47.0)
    one = measured(Recording(id="a", audio=file), file)
    cut = opening(one, tmp_path)
    assert measured(one.recording, cut).seconds == pytest.approx(module.OPENING_SECONDS, abs=0.01)
