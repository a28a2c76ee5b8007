from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from commands import OPENING, samples
from evaluations import Heard, really, said
from sounds import tone, write_wav
from stenopool import Transcriber
from stenopool.data import Part, Recording
from stenopool.errors import EngineFailed, UsageError
from stenopool.evaluation import run
from stenopool.evaluation.conditions import condition
from stenopool.evaluation.run import Evaluation, Plan, Result, evaluate
from stenopool.evaluation.summary import summaries, unit

CLEAN = (condition("clean"),)


def quiet(task: str, done: float, total: float | None) -> None:
    """No progress."""


@pytest.fixture
def recordings(tmp_path: Path) -> list[Recording]:
    """Three with words, of 1, 2 and 3 s, and half a minute in which nothing is said."""
    texts = {"one two three four": 1.0, "five six": 2.0, "seven eight nine ten": 3.0, "": 30.0}
    found = []
    for number, (text, seconds) in enumerate(texts.items()):
        path = write_wav(tmp_path / f"{number}.wav", tone(seconds, hz=300 + 50 * number))
        found.append(
            Recording(id=f"r{number}", audio=path, text=text, duration=99.0, language="de")
        )
    return found


def evaluated(plan: Plan, *systems: run.System) -> Evaluation:
    return evaluate(plan, systems, progress=quiet)


def test_figures_of_a_system_are_those_counted_by_hand(recordings: list[Recording]) -> None:
    hears = said(recordings, lambda text: text.replace("six", "sick") if text else "a b c")
    (found,) = summaries(evaluated(Plan(recordings, CLEAN), Heard("one", hears, seconds=0.5)))
    assert (found.counts.words, found.counts.substitutions, found.counts.errors) == (10, 1, 1)
    assert found.nonspeech_minutes == pytest.approx(0.5)
    assert found.invented == pytest.approx(6.0)  # words a minute
    assert found.real_time_factor == pytest.approx(4 * 0.5 / 36)  # not of the claimed lengths
    assert found.latency == {50: 0.5, 95: 0.5, 99: 0.5}
    assert (found.failed, found.difference) == ({}, None)
    assert found.interval
    assert 0 <= found.interval.low <= 0.1 <= found.interval.high


def test_latency_is_of_single_recordings_and_skewed_as_they_are(
    recordings: list[Recording],
) -> None:
    class Slow(Heard):
        def transcribe(self, paths, *, together=False):  # type: ignore[no-untyped-def]
            for number, answer in enumerate(super().transcribe(paths, together=together)):
                yield type(answer)(answer.text, 10.0 if number == 3 else 1.0)

    (found,) = summaries(evaluated(Plan(recordings, CLEAN), Slow("one", said(recordings))))
    assert found.latency
    assert found.latency[50] == 1.0
    assert 8 < found.latency[95] < found.latency[99] < 10


def test_better_system_differs_from_the_first_one(recordings: list[Recording]) -> None:
    worse = Heard("worse", said(recordings, lambda text: text.rpartition(" ")[0]))
    better = Heard("better", said(recordings))
    first, second = summaries(evaluated(Plan(recordings, CLEAN), worse, better))
    assert first.difference is None
    assert second.difference
    assert second.difference.value == pytest.approx(-0.3)
    assert second.difference.interval.high < 0


def test_failed_recording_is_named_and_its_words_are_deleted(recordings: list[Recording]) -> None:
    recordings[1].audio.write_bytes(b"not a sound at all, though it has bytes")
    recordings[2] = Recording(id="gone", audio=Path("/none"), text="seven eight nine ten")

    class Strict(Heard):
        """Fails as the real ones do."""

        def transcribe(self, paths, *, together=False):  # type: ignore[no-untyped-def]
            for answer, path in zip(
                super().transcribe(paths, together=together), paths, strict=True
            ):
                broken = path in (recordings[1].audio, recordings[2].audio)
                error = {"code": "not_media", "message": "m", "hint": "h", "transient": False}
                yield type(answer)("", 0.0, error) if broken else answer

    noisy = (condition("clean"), condition("noise-10"))
    for found in summaries(evaluated(Plan(recordings, noisy), Strict("one", lambda path: "x"))):
        assert sum(found.failed.values()) == 2
        assert found.counts.deletions >= 2 + 4
        assert found.real_time_factor == pytest.approx(2 * 0.25 / 31)  # failing is fast
    clean, noise = evaluated(Plan(recordings, noisy), Strict("one", lambda path: "x")).results
    codes = [one.answer.error and one.answer.error["code"] for one in clean.outcomes]
    assert codes == [None, "not_media", "not_media", None]
    codes = [one.answer.error and one.answer.error["code"] for one in noise.outcomes]
    assert codes == [None, "not_media", "input_not_found", None]


def crashing(recordings: list[Recording], *culprits: int) -> Heard:
    def hears(path: Path) -> str:
        if path in [recordings[culprit].audio for culprit in culprits]:
            raise EngineFailed("the process ended", do="Give it more memory")
        return said(recordings)(path)

    return Heard("one", hears)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("culprits", [(0,), (1, 2), (3,), (0, 1, 2, 3)])
def test_recording_that_ends_the_process_costs_no_other(
    recordings: list[Recording], together: bool, culprits: tuple[int, ...]
) -> None:
    system = crashing(recordings, *culprits)
    plan = Plan(recordings, CLEAN, together=together)
    (found,) = evaluated(plan, system).results
    failed = [number for number, one in enumerate(found.outcomes) if one.answer.error]
    assert failed == list(culprits)
    for number, one in enumerate(found.outcomes):
        assert one.answer.text == ("" if number in culprits else recordings[number].text)
    assert system.entered == system.left


def test_system_that_cannot_go_on_is_no_result(recordings: list[Recording]) -> None:
    class Dying(Heard):
        def __enter__(self):  # type: ignore[no-untyped-def]
            if self.entered:
                raise EngineFailed("no memory", do="Buy some")
            return super().__enter__()

    system = Dying("one", crashing(recordings, 0).hears)
    with pytest.raises(EngineFailed, match="no memory"):
        evaluated(Plan(recordings, CLEAN), system)


def test_together_gives_all_recordings_in_one_call_and_no_latency(
    recordings: list[Recording],
) -> None:
    system = Heard("one", said(recordings))
    found = evaluated(Plan(recordings, CLEAN, together=True), system)
    assert system.calls == [([one.audio for one in recordings], True)]
    assert summaries(found)[0].latency is None
    assert summaries(found)[0].real_time_factor == pytest.approx(1.0 / 36)


def test_files_of_conditions_exist_for_a_bounded_stretch_and_then_never(
    recordings: list[Recording], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "BATCH_SECONDS", 3.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    there: list[int] = []

    def hears(path: Path) -> str:
        there.append(len(list(path.parent.iterdir())))
        return ""

    systems = [Heard("one", hears), Heard("two", hears)]
    evaluated(Plan(recordings, (condition("noise-10"),)), *systems)
    assert [len(paths) for paths, _ in systems[0].calls] == [2, 1, 1]
    assert there == [2, 2, 2, 2, 1, 1, 1, 1]
    assert systems[0].calls == systems[1].calls  # both heard the same files
    assert list((tmp_path / "temporary").iterdir()) == []


def test_interrupt_leaves_no_file_and_no_process(
    recordings: list[Recording], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def interrupted(path: Path) -> str:
        raise KeyboardInterrupt

    system = Heard("one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluated(Plan(recordings, (condition("noise-10"),)), system)
    assert (system.entered, system.left) == (1, 1)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_babble_is_not_held_against_systems_that_hear_it(recordings: list[Recording]) -> None:
    plan = Plan(recordings, (condition("babble-10"), condition("noise-10")))
    babble, noise = summaries(evaluated(plan, Heard("one", lambda path: "words")))
    assert babble.invented is None
    assert noise.invented == pytest.approx(2.0)


def test_utterances_of_long_recordings_are_what_is_resampled(recordings: list[Recording]) -> None:
    parts = tuple(
        Part(f"{n}", n, n + 1.0, text) for n, text in enumerate(("seven eight", "nine", "ten"))
    )
    long = Recording(id="long", audio=recordings[2].audio, text="seven eight nine ten", parts=parts)

    def results(*chosen: Recording) -> Result:
        return evaluated(Plan(chosen, CLEAN), Heard("one", lambda path: "seven nine ten")).results[
            0
        ]

    assert unit(results(recordings[2]).outcomes) == "recording"
    found = results(long)
    assert unit(found.outcomes) == "utterance"
    assert [one.words for one in found.outcomes[0].score.units] == [2, 1, 1]
    assert [one.errors for one in found.outcomes[0].score.units] == [1, 0, 0]


def test_progress_reaches_the_end(recordings: list[Recording]) -> None:
    told: list[tuple[str, float, float | None]] = []
    systems = [Heard("one", said(recordings)), Heard("two", said(recordings))]
    evaluate(Plan(recordings, CLEAN), systems, progress=lambda *news: told.append(news))
    assert told[0] == ("one, clean", 0.0, 4 * 99.0)
    assert told[-1][0] == "two, clean"
    assert told[-1][1] == pytest.approx(36.0)


def test_plan_that_makes_no_sense_is_refused(recordings: list[Recording]) -> None:
    with pytest.raises(UsageError, match="no recording with a reference"):
        evaluated(Plan([], CLEAN), Heard("one", said(recordings)))
    with pytest.raises(UsageError, match="same name"):
        evaluated(Plan(recordings, CLEAN), Heard("one", str), Heard("one", str))


def test_real_recording_is_heard_well_and_noise_makes_it_worse(
    transcriber: Transcriber, speech_wav: Path, tmp_path: Path
) -> None:
    ages = "it was the age of wisdom it was the age of foolishness"
    text = f"{OPENING} it was the worst of times {ages}"
    path = write_wav(tmp_path / "clip.wav", samples(speech_wav, 8.5), rate=48_000)
    speech = Recording(id="clip", audio=path, text=text, language="en")
    plan = Plan([speech], (condition("clean"), condition("telephone"), condition("noise--10")))
    clean, telephone, noisy = summaries(evaluated(plan, really(transcriber)))
    assert clean.counts.wer is not None
    assert clean.counts.wer < 0.2
    assert telephone.counts.wer is not None
    assert telephone.counts.wer < 0.4
    assert noisy.counts.wer is not None
    assert noisy.counts.wer > clean.counts.wer
    assert clean.real_time_factor
    assert 0 < clean.real_time_factor < 10
