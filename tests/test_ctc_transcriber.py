"""CTC models where Whisper's are used: long form, live, options, the pipeline's checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from commands import InProcess
from ctc_models import ALPHABET, FRAME, LETTERS, Loudness, ToneEngine, silence, spoken, write_model
from listeners import Ledger, task_for
from sounds import write_wav
from stenopool import Options, Transcriber
from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.windows import PAD_SAMPLES, Piece, Window
from stenopool.bucket import FolderBucket
from stenopool.decoding.batching import USUAL, Batcher, Claim, Reader, Readings
from stenopool.decoding.ctc.context import CONTEXT_SAMPLES, own_end, own_start, with_context
from stenopool.decoding.ctc.family import CtcFamily
from stenopool.decoding.ctc.options import BEAM_SIZE
from stenopool.decoding.ctc.path import best_path, words_of
from stenopool.decoding.ctc.recognise import CtcModel, CtcRecogniser
from stenopool.decoding.live import LiveEvent
from stenopool.engines.ctc import Emissions
from stenopool.errors import UnsupportedOption, UsageError
from stenopool.models import Store
from stenopool.pipeline import recording
from stenopool.pipeline.recording import SPAN_WINDOWS

ENGINE = ToneEngine()


def hearing(transcriber: Transcriber, language: str = "und") -> Transcriber:
    """Everything real but the model, which hears tones, and voice activity."""
    changed = copy.copy(transcriber)
    changed.family = CtcFamily(CtcModel(ENGINE, ALPHABET, None), language)
    changed.detector = Loudness()  # type: ignore[assignment]
    changed.batcher = Batcher(ENGINE.workers)
    changed.recogniser = lru_cache(changed._recogniser)
    changed.rough_recogniser = lru_cache(changed._rough_recogniser)
    return changed


def tale(words: int, seed: int = 0) -> str:
    random = np.random.default_rng(seed)
    letters = list(LETTERS[:-1])
    return " ".join("".join(random.choice(letters, random.integers(1, 9))) for _ in range(words))


def recorded(folder: Path, *parts: Samples) -> Path:
    return write_wav(folder / "a.wav", np.concatenate(parts).astype(np.float64))


# --- long form -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_long_speech_without_a_pause_is_as_in_one_pass(
    transcriber: Transcriber, tmp_path: Path, seed: int
) -> None:
    sound = spoken(tale(160, seed))
    assert len(sound) > 55 * SAMPLE_RATE
    words = words_of(best_path(ENGINE.emissions([sound])[0], ALPHABET.blank), ALPHABET)
    wanted = " ".join(ALPHABET.text([one.symbol for one in word.symbols]) for word in words)
    transcript = hearing(transcriber).transcribe(recorded(tmp_path, sound))
    assert transcript.text == wanted == tale(160, seed)
    found = [word for segment in transcript.segments for word in segment.words]
    step = FRAME / SAMPLE_RATE
    for word, spoken_word in zip(found, words, strict=True):
        assert word.start == pytest.approx(spoken_word.first * step, abs=0.001)
        assert word.end == pytest.approx(spoken_word.after * step, abs=0.001)
    assert transcript.coverage.dropped_seconds == 0
    assert (transcript.language, transcript.flags) == ("und", ())


def test_windows_of_any_order_agree_whose_a_word_is(transcriber: Transcriber) -> None:
    sound = spoken(tale(200))
    family = hearing(transcriber).family
    cuts = [0, 20 * SAMPLE_RATE + 333, 41 * SAMPLE_RATE + 77, len(sound)]
    pieces = [Piece(sound[a:b], a, b, a, b) for a, b in pairwise(cuts)]
    windows = list(family.windows(iter(pieces), Options()))
    assert len(windows) == 3
    reader = family.reader(family.resolved(Options()), "und")
    backwards = [reader.read([window])[0] for window in reversed(windows)]
    readings = [reading for one in reversed(backwards) for reading in one]
    said = "".join(word.word for reading in readings for word in reading.words).strip()
    assert said == tale(200)


def test_pieces_that_touch_hear_a_part_of_each_other() -> None:
    sound = np.arange(20 * SAMPLE_RATE, dtype=np.float32)
    cut, end = 10 * SAMPLE_RATE + 5, 10 * SAMPLE_RATE + 100

    def piece(start: int, until: int) -> Piece:
        return Piece(sound[start:until], start, until, start, until)

    first, second, third = with_context(
        [piece(0, cut), piece(cut, end), piece(12 * SAMPLE_RATE, 13 * SAMPLE_RATE)], FRAME
    )
    assert (own_start(first), own_end(first)) == (0, cut)
    assert (own_start(second), own_end(second)) == (cut, end)
    assert second.start % FRAME == 0
    assert 0 <= second.start - (cut - CONTEXT_SAMPLES) < FRAME
    assert np.array_equal(second.samples, sound[second.start : end])
    assert len(first.samples) == first.end - first.start > cut + PAD_SAMPLES
    assert (own_start(third), own_end(third)) == (12 * SAMPLE_RATE, 13 * SAMPLE_RATE)


def test_pause_in_speech_parts_utterances(transcriber: Transcriber, tmp_path: Path) -> None:
    path = recorded(tmp_path, spoken("one two"), silence(3), spoken("three"), silence(1))
    transcript = hearing(transcriber).transcribe(path)
    assert [segment.text for segment in transcript.segments] == ["one two", "three"]
    assert transcript.segments[1].start == pytest.approx(0.56 + 3, abs=0.05)
    assert all(word.probability > 0.98 for word in transcript.segments[0].words)
    assert transcript.segments[0].no_speech_prob < 0.02


def test_sound_without_words_is_dropped_speech(transcriber: Transcriber, tmp_path: Path) -> None:
    hum = 0.3 * np.sin(2 * np.pi * 60 * np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE)
    changed = hearing(transcriber)
    changed.family = CtcFamily(CtcModel(Deaf(), ALPHABET, None))
    transcript = changed.transcribe(recorded(tmp_path, hum.astype(np.float32)))
    assert transcript.text == ""
    assert transcript.coverage.dropped_seconds == pytest.approx(4, abs=0.1)
    assert "speech_dropped" in transcript.flags


class Deaf(ToneEngine):
    """Hears nothing in anything."""

    def emissions(self, samples: Sequence[Samples]) -> list[Emissions]:
        return super().emissions([np.zeros_like(one) for one in samples])


def test_windows_that_others_read_give_the_same_transcript(
    transcriber: Transcriber, tmp_path: Path
) -> None:
    """Through the pipeline: kept in the bucket, handed out in spans, merged."""
    heard, path = hearing(transcriber), recorded(tmp_path, spoken(tale(900)))
    assert len(list(windows_of(heard, path))) > SPAN_WINDOWS
    bucket = FolderBucket(tmp_path / "bucket")
    (bucket.root / "input").mkdir(parents=True)
    path.rename(bucket.root / "input" / "a.wav")
    ledger = Ledger()
    found = recording.transcribe(task_for(bucket, "input/a.wav", heard, ledger=ledger))
    assert ledger.ended
    assert found.text == tale(900)


def windows_of(heard: Transcriber, path: Path) -> Iterator[Window]:
    with heard.listen(path, heard.resolved(Options())) as listening:
        yield from listening.windows()


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", "translate"),
        ("initial_prompt", "Hello"),
        ("temperatures", (0.5,)),
        ("condition_on_previous_text", True),
        ("chunk_seconds", 20),
        ("algorithm", "sequential"),
        ("algorithm", "chunked"),
        ("language_threshold", 0.9),
    ],
)
def test_option_that_ctc_cannot_honour_is_refused_by_name(
    transcriber: Transcriber, name: str, value: object
) -> None:
    with pytest.raises(UnsupportedOption, match=name if name != "algorithm" else str(value)):
        hearing(transcriber).resolved(Options.of(**{name: value}))


def test_choices_are_made(transcriber: Transcriber) -> None:
    heard = hearing(transcriber)
    plain = heard.resolved(Options())
    assert (plain.beam_size, plain.algorithm, plain.batch_size) == (1, "packed", 2)
    assert heard.resolved(Options(hotwords="sky")).beam_size == BEAM_SIZE
    assert heard.resolved(Options(hotwords="sky", beam_size=7)).beam_size == 7
    with pytest.raises(UnsupportedOption, match="hotwords"):
        heard.resolved(Options(hotwords="sky", beam_size=1))
    with pytest.raises(UsageError, match="cannot write"):
        heard.resolved(Options(hotwords="天"))


def test_language_is_that_of_the_model_or_as_given(
    transcriber: Transcriber, tmp_path: Path
) -> None:
    path = recorded(tmp_path, spoken("one two"))
    german = Options(language="de")
    assert hearing(transcriber).transcribe(path, german).language == "de"
    found = hearing(transcriber, "de").transcribe(path)
    assert (found.language, found.language_probability) == ("de", 1.0)
    with pytest.raises(UnsupportedOption, match="`de` only, not `fr`"):
        hearing(transcriber, "de").resolved(Options(language="fr"))


def test_hot_words_reach_the_search(transcriber: Transcriber, tmp_path: Path) -> None:
    heard = hearing(transcriber)
    engine = ToneEngine(confused="cb")
    heard.family = CtcFamily(CtcModel(engine, ALPHABET, None))
    path = recorded(tmp_path, spoken("cat sat"))
    assert heard.transcribe(path).text == "cat sat"
    transcript = heard.transcribe(path, Options(hotwords="bat"))
    assert transcript.text == "bat sat"
    assert [word.word for word in transcript.segments[0].words] == [" bat", " sat"]


def test_candidates_have_scores() -> None:
    options = Options(beam_size=8)
    reader = CtcRecogniser(CtcModel(ToneEngine(sure=0.5), ALPHABET, None), options)
    sound = spoken("cat")
    window = Window((Piece(sound, 0, len(sound), 0, len(sound)),))
    ((first, second, *_),) = reader.candidates(window, 5)
    assert first.text == "cat"
    assert first.score > second.score
    greedy = CtcRecogniser(CtcModel(ENGINE, ALPHABET, None), Options(beam_size=1))
    assert [one.text for one in greedy.candidates(window, 5)[0]] == ["cat"]


# --- live ----------------------------------------------------------------------------------------


class AtOnce(Batcher):
    """Reads each window before the next block is heard."""

    def submit(self, reader: Reader, window: Window, claim: Claim = USUAL) -> Future[Readings]:
        future: Future[Readings] = Future()
        future.set_result(reader.read([window])[0])
        return future


def test_speech_is_told_as_it_is_spoken(transcriber: Transcriber) -> None:
    events: list[LiveEvent] = []
    heard = hearing(transcriber)
    heard.batcher = AtOnce(1)
    live = heard.live(Options(), events.append)
    said = tale(20, seed=5)
    for block in blocks(np.concatenate([silence(0.5), spoken(said), silence(1.5)])):
        live.hear(block)
    assert live.wait(at_most=0, seconds=20)
    kinds = [event.kind for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "completed"
    assert events[-1].text == said
    partial = [event.text for event in events if event.kind == "text"]
    assert len(partial) > 1  # not only at its end
    assert "".join(partial).strip() == said


def blocks(sound: Samples) -> Iterator[Samples]:
    for at in range(0, len(sound), SAMPLE_RATE // 5):
        yield sound[at : at + SAMPLE_RATE // 5]


# --- a folder ------------------------------------------------------------------------------------


def test_folder_works_as_a_model(models_dir: Path, speech_wav: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    folder = write_model(tmp_path / "mine", language="en")
    transcriber = Transcriber(folder, engine="openvino", store=Store(models_dir))
    transcript = transcriber.transcribe(speech_wav)
    assert (transcript.model.name, transcript.model.engine) == ("mine", "openvino")
    assert (transcript.language, transcript.flags[:1]) == ("en", ())
    assert transcript.duration == pytest.approx(44, abs=1)
    assert transcript.text  # random weights say something, though nothing that anybody said
    again = transcriber.transcribe(speech_wav)
    assert again.segments == transcript.segments


def test_candidates_of_a_recording_as_json(
    transcriber: Transcriber, here: InProcess, tmp_path: Path
) -> None:
    heard = hearing(transcriber)
    heard.family = CtcFamily(CtcModel(ToneEngine(confused="cb"), ALPHABET, None))
    path = recorded(tmp_path, spoken("cat sat"), silence(2), spoken("bat"))
    here.use(heard)
    done = here("transcribe", path, "--json", "--candidates", "2")
    assert done.status == 0, done.stderr
    first, second = done.lines[0]["alternatives"]
    assert first["candidates"][0]["text"] == "cat sat"
    assert len(first["candidates"]) == 2
    assert first["candidates"][0]["score"] > first["candidates"][1]["score"]
    assert first["end"] <= second["start"]
    assert done.lines[0]["transcript"]["text"] == "cat sat bat"
    here.use(transcriber)
    assert here("transcribe", path, "--json", "--candidates", "2").status == 2
    assert here("transcribe", path, "--candidates", "2").status == 2
