"""Texts along recordings, of any length; and Whisper's word times made better by that."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from commands import InProcess
from ctc_models import ALPHABET, FRAME, ToneEngine, silence, spoken, write_model
from sounds import write_wav
from stenopool import Options, Transcriber
from stenopool.audio import SAMPLE_RATE, regrouped
from stenopool.audio.windows import Piece, Window
from stenopool.decoding import refine
from stenopool.decoding.ctc.align import Aligner
from stenopool.decoding.quality import Figures
from stenopool.decoding.readings import Reading
from stenopool.decoding.refine import Refined
from stenopool.errors import TextDoesNotFit, UsageError
from stenopool.settings import settings
from stenopool.transcript import Word

STEP = FRAME / SAMPLE_RATE
ALIGNER = Aligner(ToneEngine(), ALPHABET)


def test_words_are_where_they_are_spoken() -> None:
    sound = np.concatenate([silence(1), spoken("one two"), silence(2), spoken("three")])
    emissions = ALIGNER.emissions(iter([sound]))
    found = ALIGNER.words(emissions, [" One", " two,", " three."])
    assert [one.text for one in found] == [" One", " two,", " three."]
    letter = 4 * STEP
    starts = [1.0, 1 + 4 * letter, 3 + 7 * letter]
    # A delimiter may be where the pause or where the word is: they are equally probable.
    assert [one.start for one in found] == pytest.approx(starts, abs=0.021)
    assert [one.end for one in found] == pytest.approx(
        [start + count * letter - STEP for start, count in zip(starts, (3, 3, 5), strict=True)],
        abs=0.001,
    )
    assert all(one.probability > 0.98 for one in found)


def test_word_that_was_not_spoken_fits_badly() -> None:
    emissions = ALIGNER.emissions(iter([spoken("one two")]))
    first, second = ALIGNER.words(emissions, ["one", "six"])
    assert first.probability > 0.9
    assert second.probability < 0.01


def test_words_that_the_model_cannot_write_lie_between_their_neighbours() -> None:
    sound = np.concatenate([spoken("in "), silence(1), spoken("we met")])
    found = ALIGNER.words(ALIGNER.emissions(iter([sound])), ["in", "1945", "—", "we", "met", "42"])
    assert [one.probability > 0 for one in found] == [True, False, False, True, True, False]
    for before, after in pairwise(found):
        assert before.start <= before.end <= after.start
    assert found[1].end - found[1].start == pytest.approx(found[2].end - found[2].start)
    assert found[1].end > found[0].end + 0.4
    assert found[-1].end <= len(sound) / SAMPLE_RATE


@pytest.mark.parametrize("seconds", [0.01, 3.0, 20.0, 22.0, 24.005, 61.7])
@pytest.mark.parametrize("block", [1600, 16_000, 10**7])
def test_windows_give_the_emissions_of_the_whole(seconds: float, block: int) -> None:
    random = np.random.default_rng(0)
    sound = (0.1 * random.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)
    found = ALIGNER.emissions(regrouped([sound], block))
    assert np.array_equal(found, ToneEngine().emissions([sound])[0])


def test_nothing_to_align_is_refused() -> None:
    emissions = ALIGNER.emissions(iter([spoken("one")]))
    with pytest.raises(UsageError, match="knows no character"):
        ALIGNER.words(emissions, ["12", "天"])
    with pytest.raises(TextDoesNotFit):
        ALIGNER.words(emissions, ["abcdefghijkl"] * 3)


def test_real_windows_overlap_seamlessly(tmp_path: Path) -> None:
    """The model's own frames, stitched, are in number those of one pass."""
    pytest.importorskip("openvino")
    from stenopool.engines.ctc.openvino import OpenVinoCtcEngine

    folder = write_model(tmp_path / "m")
    engine = OpenVinoCtcEngine(folder, precision="float32", threads=2)
    sound = (0.1 * np.random.default_rng(1).standard_normal(47 * SAMPLE_RATE)).astype(np.float32)
    found = Aligner(engine, ALPHABET).emissions(regrouped([sound], SAMPLE_RATE))
    assert found.shape == engine.emissions([sound])[0].shape


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> InProcess:
    monkeypatch.setattr(Aligner, "load", lambda folder, choice: ALIGNER)
    return InProcess(monkeypatch, capfdbinary)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    sound = np.concatenate([silence(0.5), spoken("one two"), silence(2), spoken("three")])
    audio = write_wav(tmp_path / "a.wav", sound.astype(np.float64))
    text = tmp_path / "a.txt"
    text.write_text("One two.\nThree!\n", encoding="utf-8")
    return audio, text, write_model(tmp_path / "m")


def test_command_writes_a_transcript(run: InProcess, files: tuple[Path, Path, Path]) -> None:
    audio, text, model = map(str, files)
    done = run("align", audio, text, "--model", model)
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert [segment["text"] for segment in found["segments"]] == ["One two.", "Three!"]
    assert found["segments"][1]["start"] == pytest.approx(0.5 + 7 * 0.08 + 2, abs=0.01)
    assert found["segments"][0]["words"][0]["probability"] > 0.9
    done = run("align", audio, text, "--model", model, "--format", "srt")
    assert done.stdout.decode().startswith("1\n00:00:00,500 --> ")


def test_command_says_what_is_wrong(
    run: InProcess, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    audio, text, model = files

    def fails(*given: object) -> str:
        done = run("align", *map(str, given))
        assert done.status != 0
        return done.stderr

    text.write_text("word " * 1000, encoding="utf-8")
    assert "text_does_not_fit" in fails(audio, text, "--model", model)
    text.write_text(" \n", encoding="utf-8")
    assert "has no words" in fails(audio, text, "--model", model)
    text.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in fails(audio, text, "--model", model)
    assert "input_not_found" in fails(audio, tmp_path / "no", "--model", model)
    text.write_text("one", encoding="utf-8")
    assert "input_not_found" in fails(tmp_path / "no.wav", text, "--model", model)
    assert "unknown_name" in fails(audio, text, "--model", model, "--format", "pdf")
    (model / "vocab.json").unlink()
    assert "model_damaged" in fails(audio, text, "--model", model)


# --- Whisper's words -----------------------------------------------------------------------------


class Rough:
    """A reader whose word times are 0.3 s off."""

    batch_size = 3

    def read(self, windows: list[Window]) -> list[list[Reading]]:
        figures = Figures(-0.1, 0.0, 1.0, ())
        words = tuple(
            Word(text, start, start + 0.3, 0.9)
            for text, start in ((" One", 10.3), (" 22", 10.5), (" two", 10.7), (" nobody", 11.0))
        )
        return [[Reading(words[:2], figures, 0.0, 10.9), Reading(words[2:], figures, 0.0, 12.0)]]


def test_word_times_are_refined_within_bounds() -> None:
    sound = np.concatenate([spoken("one two"), silence(0.5)])
    start = 10 * SAMPLE_RATE
    piece = Piece(sound, start, start + len(sound), start, start + len(sound))
    refined = Refined(Rough(), ALIGNER)
    assert refined.batch_size == 3
    ((first, second),) = refined.read([Window((piece,))])
    one, number, two, nobody = *first.words, *second.words
    assert [word.word for word in (one, number, two, nobody)] == [" One", " 22", " two", " nobody"]
    assert one.start == pytest.approx(10.0, abs=0.001)
    assert two.start == pytest.approx(10 + 4 * 4 * STEP, abs=0.4)
    assert nobody.end == pytest.approx(11.3, abs=0.001)
    assert nobody.probability == 0.9
    for before, after in pairwise((one, number, two, nobody)):
        assert 10.0 <= before.start <= before.end <= after.start


def test_aligner_is_configured_by_a_setting(
    transcriber: Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech_wav: Path
) -> None:
    pytest.importorskip("openvino")
    from stenopool.decoding.whisper import WhisperFamily
    from stenopool.engines.base import Engine

    folder = write_model(tmp_path / "m")
    monkeypatch.setenv("STENO_ALIGNER", str(folder))
    settings.cache_clear()
    try:
        aligner = refine.configured()
        assert aligner is not None
        assert aligner is refine.configured()  # loaded once
        family = transcriber.family
        assert isinstance(family, WhisperFamily)
        engine: Engine = family.engine
        made = WhisperFamily(engine, family.vocabulary, transcriber.model)
        assert isinstance(made.reader(made.resolved(Options()), "en"), Refined)
        monkeypatch.setenv("STENO_ALIGNER", str(transcriber.model.folder))
        settings.cache_clear()
        with pytest.raises(UsageError, match="no CTC model"):
            refine.configured()
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert refine.configured() is None
