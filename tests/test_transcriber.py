from __future__ import annotations

import copy
import gc
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from whisper_normalizer.english import EnglishTextNormalizer

import stenopool
from fakes import Asked, FakeEngine, Script, hypothesis, story, vocabulary_of
from sounds import Sound, noise, pink_noise, tone, write_wav
from stenopool import Options, Segment, Transcriber, Transcript
from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.media import Recording
from stenopool.audio.windows import Window
from stenopool.decoding.batching import USUAL, Batcher, Claim, Reader, Readings
from stenopool.decoding.options import ALGORITHMS, CHUNKED, PACKED, SEQUENTIAL
from stenopool.decoding.transcriber import MOST_FILES
from stenopool.decoding.whisper import UNSUITED_ALGORITHM, UnsuitedAlgorithm, WhisperFamily
from stenopool.engines import choose
from stenopool.errors import (
    Defect,
    EngineFailed,
    InputNotFound,
    NoAudio,
    NotMedia,
    StenoError,
    UnknownName,
    UnsupportedOption,
    UsageError,
)
from stenopool.models import Store
from stenopool.transcript import Timing

TWO_CITIES = """
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of
foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of
Light, it was the season of Darkness, it was the spring of hope, it was the winter of despair, we
had everything before us, we had nothing before us, we were all going direct to Heaven, we were all
going direct the other way - in short, the period was so far like the present period, that some of
its noisiest authorities insisted on its being received, for good or for evil, in the superlative
degree of comparison only.
"""
TWELVE = " ".join(story(12))  # what anybody may say in 4 s to 9 s
HOLE = 20.0  # seconds of silence put into speech


def samples_of(path: Path) -> Samples:
    with Recording(path) as recording:
        return np.concatenate(list(recording))


def word_error_rate(text: str) -> float:
    plain = EnglishTextNormalizer()
    return float(jiwer.wer(plain(TWO_CITIES), plain(text)))


def same(transcript: Transcript) -> Transcript:
    """Without what differs from run to run."""
    return replace(transcript, timing=Timing(0.0, 0.0))


def with_engine(transcriber: Transcriber, engine: FakeEngine) -> Transcriber:
    """The real detector and tokens with another engine."""
    changed = copy.copy(transcriber)
    changed.family = WhisperFamily(engine, engine.vocabulary, transcriber.model)
    changed.batcher = Batcher(engine.workers)
    changed.recogniser = lru_cache(changed._recogniser)
    return changed


@pytest.fixture(scope="module")
def transcripts(transcriber: Transcriber, speech_wav: Path) -> dict[str, Transcript]:
    """The whole recording by each algorithm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsuitedAlgorithm)
        return {
            algorithm: transcriber.transcribe(speech_wav, Options(algorithm=algorithm))
            for algorithm in ALGORITHMS
        }


@pytest.fixture(scope="module")
def clip(speech_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 9 s."""
    samples = samples_of(speech_wav)[: 9 * SAMPLE_RATE].astype(np.float64)
    return write_wav(tmp_path_factory.mktemp("clips") / "clip.wav", samples)


@pytest.fixture(scope="module")
def clip_transcript(transcriber: Transcriber, clip: Path) -> Transcript:
    return transcriber.transcribe(clip)


def is_open(path: Path) -> bool:
    links = Path("/proc/self/fd").iterdir()
    return any(link.is_symlink() and Path(link).readlink() == path for link in links)


open_files = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="open files are seen in /proc"
)


# --- real speech ------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_real_speech_is_understood(transcripts: dict[str, Transcript], algorithm: str) -> None:
    assert word_error_rate(transcripts[algorithm].text) <= 0.10


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_transcript_is_consistent(transcripts: dict[str, Transcript], algorithm: str) -> None:
    transcript = transcripts[algorithm]
    coverage = transcript.coverage
    assert coverage.speech_seconds == pytest.approx(
        coverage.transcribed_seconds + coverage.dropped_seconds
    )
    assert 25 < coverage.speech_seconds < transcript.duration
    assert coverage.dropped_seconds < 2.0
    assert transcript.text == " ".join(segment.text for segment in transcript.segments)
    assert [segment.id for segment in transcript.segments] == list(range(len(transcript.segments)))
    assert transcript.duration == pytest.approx(44.374, abs=0.001)
    assert (transcript.language, transcript.language_probability) == ("en", 1.0)
    timing = transcript.timing
    assert timing.real_time_factor == pytest.approx(timing.wall_seconds / transcript.duration)
    assert Transcript.from_dict(transcript.to_dict()) == transcript


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_times_are_ordered_and_inside_the_recording(
    transcripts: dict[str, Transcript], algorithm: str
) -> None:
    transcript = transcripts[algorithm]
    segments = transcript.segments
    assert len(segments) > 3
    assert all(one.end - one.start < 15 for one in segments)
    assert all(left.end <= right.start for left, right in pairwise(segments))
    assert segments[0].start >= 0
    assert segments[-1].end <= transcript.duration
    for segment in segments:
        assert segment.start == segment.words[0].start
        assert segment.end == segment.words[-1].end
        assert all(left.end <= right.start for left, right in pairwise(segment.words))
        assert all(word.start < word.end and 0 <= word.probability <= 1 for word in segment.words)
        assert "".join(word.word for word in segment.words).strip() == segment.text


def test_algorithms_agree_on_when_words_were_said(transcripts: dict[str, Transcript]) -> None:
    def starts(algorithm: str, spoken: str) -> list[float]:
        words = [word for one in transcripts[algorithm].segments for word in one.words]
        return [word.start for word in words if word.word.strip(" .,").lower() == spoken]

    for spoken in ("wisdom", "season", "despair", "noisiest"):
        expected = starts(PACKED, spoken)
        assert expected
        for algorithm in (SEQUENTIAL, CHUNKED):
            assert starts(algorithm, spoken) == pytest.approx(expected, abs=0.4)


def test_model_is_named_with_its_weights(
    transcripts: dict[str, Transcript], transcriber: Transcriber
) -> None:
    model = transcripts[PACKED].model
    assert model == transcriber.info
    choice = choose()
    assert model.name == "tiny.en"
    assert (model.engine, model.precision) == (choice.engine, choice.precision)
    assert model.sha256 == "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


def test_algorithm_that_does_not_suit_the_model_warns_and_is_flagged(
    transcripts: dict[str, Transcript], transcriber: Transcriber
) -> None:
    with pytest.warns(UnsuitedAlgorithm, match=r"`tiny\.en` .* packed .* chunked"):
        transcriber.resolved(Options(algorithm=CHUNKED))
    assert transcripts[CHUNKED].flags == (UNSUITED_ALGORITHM,)
    assert transcripts[PACKED].flags == ()
    assert UNSUITED_ALGORITHM not in transcripts[SEQUENTIAL].flags


def test_silence_in_the_middle_moves_what_comes_after_it(
    transcriber: Transcriber, transcripts: dict[str, Transcript], speech_wav: Path, tmp_path: Path
) -> None:
    before, after = transcripts[PACKED].segments[1:3]
    cut = round((before.end + after.start) / 2 * SAMPLE_RATE)
    samples = samples_of(speech_wav).astype(np.float64)[: round((after.end + 0.5) * SAMPLE_RATE)]
    silence = np.zeros(round(HOLE * SAMPLE_RATE))
    path = write_wav(tmp_path / "hole.wav", np.concatenate([samples[:cut], silence, samples[cut:]]))
    found = transcriber.transcribe(path)
    assert [one.text.strip(".,").lower() for one in found.segments[1:3]] == [
        one.text.strip(".,").lower() for one in (before, after)
    ]
    assert found.segments[1].end == pytest.approx(before.end, abs=0.5)
    assert found.segments[2].start == pytest.approx(after.start + HOLE, abs=0.5)
    assert found.segments[2].end == pytest.approx(after.end + HOLE, abs=0.5)


def test_words_are_left_out_when_they_are_not_wanted(
    transcriber: Transcriber, clip: Path, clip_transcript: Transcript
) -> None:
    plain = transcriber.transcribe(clip, Options(word_timestamps=False))
    assert all(segment.words == () for segment in plain.segments)
    assert plain.text == clip_transcript.text


# --- no speech --------------------------------------------------------------------------------

HUM = np.sum([tone(10, hz=50 * n, level=0.2 / n) for n in (1, 2, 3, 5)], axis=0)
CHORD = np.sum([tone(10, hz=hz, level=0.15) for hz in (261.6, 329.6, 392.0)], axis=0)
NO_SPEECH: dict[str, Sound] = {
    "silence": np.zeros(10 * SAMPLE_RATE),
    "white noise": noise(10),
    "pink noise": pink_noise(10),
    "hum": HUM,
    "chord": CHORD,
    "hum of three equal harmonics": np.sum(
        [tone(10, hz=50 * n, level=0.1) for n in (1, 2, 3)], axis=0
    ),
    "American hum": np.sum([tone(10, hz=60 * n, level=0.1) for n in (1, 2, 3)], axis=0),
    "tone": tone(10, hz=150),
    "a moment": np.zeros(100),
}


@pytest.mark.parametrize("name", NO_SPEECH)
def test_no_speech_gives_no_words(transcriber: Transcriber, tmp_path: Path, name: str) -> None:
    transcript = transcriber.transcribe(write_wav(tmp_path / "sound.wav", NO_SPEECH[name]))
    assert transcript.segments == ()
    assert transcript.text == ""
    assert transcript.flags == ("no_speech",)
    assert transcript.coverage.transcribed_seconds == 0
    assert transcript.duration == pytest.approx(len(NO_SPEECH[name]) / SAMPLE_RATE)


@pytest.mark.parametrize("algorithm", [SEQUENTIAL, CHUNKED])
@pytest.mark.filterwarnings("ignore::stenopool.decoding.whisper.UnsuitedAlgorithm")
def test_no_speech_gives_no_words_by_any_algorithm(
    transcriber: Transcriber, tmp_path: Path, algorithm: str
) -> None:
    path = write_wav(tmp_path / "sound.wav", NO_SPEECH["silence"])
    transcript = transcriber.transcribe(path, Options(algorithm=algorithm))
    assert transcript.segments == ()
    assert "no_speech" in transcript.flags


# --- stream, progress, stop -------------------------------------------------------------------


def test_nothing_is_done_before_the_first_segment_is_asked_for(
    transcriber: Transcriber, tmp_path: Path
) -> None:
    transcription = transcriber.begin(tmp_path / "gone.wav")
    with pytest.raises(InputNotFound, match=r"gone\.wav"):
        next(iter(transcription))


def test_stream_gives_the_segments_of_the_transcript(
    transcriber: Transcriber, clip: Path, clip_transcript: Transcript
) -> None:
    transcription = transcriber.begin(clip)
    stream = iter(transcription)
    first = next(stream)
    assert isinstance(first, Segment)
    assert (first, *stream) == clip_transcript.segments
    assert same(transcription.transcript()) == same(clip_transcript)


def test_transcript_after_a_few_segments_is_whole(
    transcriber: Transcriber, clip: Path, clip_transcript: Transcript
) -> None:
    transcription = transcriber.begin(clip)
    for _ in transcription:
        break
    assert same(transcription.transcript()) == same(clip_transcript)


@open_files
def test_stream_that_is_left_frees_the_file(
    transcriber: Transcriber, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stenopool, "_transcriber", lambda model: transcriber)
    gc.disable()  # freed at once, not some time later
    try:
        for segment in stenopool.stream(clip, model="tiny.en"):
            assert segment.id == 0
            break
        assert not is_open(clip)
    finally:
        gc.enable()


def test_public_functions_take_options_by_keyword(
    transcriber: Transcriber,
    clip: Path,
    clip_transcript: Transcript,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stenopool, "_transcriber", lambda model: transcriber)
    assert tuple(stenopool.stream(clip)) == clip_transcript.segments
    transcript = stenopool.transcribe(str(clip), word_timestamps=False)
    assert transcript.segments[0].words == ()
    with pytest.raises(UnsupportedOption, match="`beams`"):
        stenopool.transcribe(clip, beams=2)
    with pytest.raises(UnsupportedOption, match="`beams`"):
        stenopool.stream(clip, beams=2)


def test_progress_rises_to_the_duration(transcriber: Transcriber, clip: Path) -> None:
    calls: list[tuple[float, float | None]] = []
    transcript = transcriber.transcribe(
        clip, progress=lambda done, total: calls.append((done, total))
    )
    done = [seconds for seconds, _ in calls]
    assert len(calls) >= 2
    assert done == sorted(done)
    assert calls[-1] == (transcript.duration, transcript.duration)
    assert all(total == pytest.approx(9.0, abs=0.01) for _, total in calls)


@open_files
def test_progress_that_raises_stops_the_work_and_frees_the_file(
    transcriber: Transcriber, clip: Path
) -> None:
    class CancelledError(Exception):
        pass

    def cancel(done: float, total: float | None) -> None:
        assert is_open(clip)
        raise CancelledError

    with pytest.raises(CancelledError):
        transcriber.transcribe(clip, progress=cancel)
    assert not is_open(clip)


# --- same again -------------------------------------------------------------------------------


def test_two_runs_give_the_same(
    transcriber: Transcriber, clip: Path, clip_transcript: Transcript
) -> None:
    assert same(transcriber.transcribe(clip)) == same(clip_transcript)


def test_threads_at_once_give_the_same(
    transcriber: Transcriber, clip: Path, clip_transcript: Transcript
) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(transcriber.transcribe, [clip] * 3))
    assert [same(each) for each in found] == [same(clip_transcript)] * 3


# --- many recordings --------------------------------------------------------------------------


def text_in(result: Transcript | StenoError) -> str:
    assert isinstance(result, Transcript), result
    return result.text


@pytest.fixture(scope="module")
def parts(speech_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four passages of 4 s to 7 s, of different texts."""
    samples = samples_of(speech_wav).astype(np.float64)
    folder = tmp_path_factory.mktemp("parts")
    cuts = [(0.0, 5.5), (5.5, 9.5), (9.5, 16.0), (16.0, 23.0)]
    return [
        write_wav(folder / f"{n}.wav", samples[round(a * SAMPLE_RATE) : round(b * SAMPLE_RATE)])
        for n, (a, b) in enumerate(cuts)
    ]


@pytest.fixture
def scripted(transcriber: Transcriber) -> tuple[Transcriber, FakeEngine]:
    """The real detector and tokens with an engine that always hears the same."""
    engine = FakeEngine(vocabulary_of(transcriber), lambda asked: TWELVE)
    return with_engine(transcriber, engine), engine


class Patient(Batcher):
    """Begins to read when so many windows wait."""

    def __init__(self, windows: int) -> None:
        super().__init__(1)
        self._submitted = threading.Barrier(windows + 1, timeout=20)

    def _work(self) -> None:
        self._submitted.wait()
        super()._work()

    def submit(self, reader: Reader, window: Window, claim: Claim = USUAL) -> Future[Readings]:
        future = super().submit(reader, window, claim)
        self._submitted.wait()
        return future


def test_many_recordings_give_the_same_in_order_as_one_at_a_time(
    transcriber: Transcriber, parts: list[Path]
) -> None:
    alone = [transcriber.transcribe(path) for path in parts]
    assert len({one.text for one in alone}) == len(parts)
    together = list(transcriber.transcribe_many(parts))
    assert [text_in(one) for one in together] == [one.text for one in alone]
    for found, expected in zip(together, alone, strict=True):
        assert isinstance(found, Transcript)
        assert found.coverage == expected.coverage
        assert [one.start for one in found.segments] == pytest.approx(
            [one.start for one in expected.segments], abs=0.1
        )


def test_unreadable_recordings_yield_their_errors_between_the_good_ones(
    transcriber: Transcriber, parts: list[Path], tmp_path: Path
) -> None:
    noise_file = tmp_path / "noise.wav"
    noise_file.write_bytes(b"no media at all" * 100)
    paths = [tmp_path / "gone.wav", parts[0], noise_file, parts[1]]
    gone, first, damaged, second = transcriber.transcribe_many(paths)
    assert isinstance(gone, InputNotFound)
    assert "gone.wav" in gone.what
    assert isinstance(damaged, NotMedia)
    assert "noise.wav" in damaged.what
    alone = [transcriber.transcribe(path).text for path in parts[:2]]
    assert [text_in(first), text_in(second)] == alone


def test_recordings_share_batches(scripted: tuple[Transcriber, FakeEngine], clip: Path) -> None:
    transcriber, engine = scripted
    transcriber.batcher = Patient(3)
    results = list(transcriber.transcribe_many([clip] * 3))
    assert [text_in(one) for one in results] == [TWELVE] * 3
    assert engine.batches == [3]


@pytest.mark.parametrize(
    ("options", "told"),
    [({"language": "de"}, "`de`"), ({"chunk_seconds": 10}, "`chunk_seconds`")],
)
def test_options_that_cannot_be_honoured_raise_before_a_path_is_taken(
    transcriber: Transcriber, options: dict[str, object], told: str
) -> None:
    taken: list[Path] = []

    def paths() -> Iterator[Path]:
        taken.append(Path("gone.wav"))
        yield taken[-1]

    with pytest.raises(UnsupportedOption, match=told):
        transcriber.transcribe_many(paths(), Options.of(**options))
    assert taken == []


def test_progress_is_told_with_the_path(
    scripted: tuple[Transcriber, FakeEngine], parts: list[Path], tmp_path: Path
) -> None:
    told: dict[Path, list[tuple[float, float | None]]] = {}

    def progress(path: Path, done: float, total: float | None) -> None:
        told.setdefault(path, []).append((done, total))

    paths: list[str | Path] = [str(parts[0]), tmp_path / "gone.wav", parts[2]]
    first, _, last = scripted[0].transcribe_many(paths, progress=progress)
    assert told.keys() == {parts[0], parts[2]}
    for path, found in ((parts[0], first), (parts[2], last)):
        assert isinstance(found, Transcript)
        assert told[path][-1] == (found.duration, found.duration)
        done = [seconds for seconds, _ in told[path]]
        assert done == sorted(done)


def test_fault_of_one_recording_is_its_defect_with_the_cause(
    scripted: tuple[Transcriber, FakeEngine], parts: list[Path]
) -> None:
    def progress(path: Path, done: float, total: float | None) -> None:
        if path == parts[1]:
            raise ZeroDivisionError("in the caller")

    before, faulty, after = scripted[0].transcribe_many(parts[:3], progress=progress)
    assert isinstance(faulty, Defect)
    assert str(parts[1]) in faulty.what
    assert isinstance(faulty.__cause__, ZeroDivisionError)
    assert [text_in(one) for one in (before, after)] == [TWELVE] * 2


def test_window_on_which_the_engine_fails_is_the_error_of_its_recording_only(
    scripted: tuple[Transcriber, FakeEngine], parts: list[Path]
) -> None:
    transcriber, engine = scripted
    transcriber.transcribe(parts[1])
    (hopeless,) = engine.asked

    def fails(asked: Asked) -> str:
        if asked.tones == hopeless.tones:
            raise EngineFailed("the engine failed", do="Try again")
        return TWELVE

    engine.script = fails
    transcriber.batcher = Patient(3)
    before, failed, after = transcriber.transcribe_many(parts[:3])
    assert isinstance(failed, EngineFailed)
    assert [text_in(one) for one in (before, after)] == [TWELVE] * 2
    assert engine.batches == [1, 3, 1, 1, 1]


def test_no_recording_gives_no_transcript(transcriber: Transcriber) -> None:
    assert list(transcriber.transcribe_many([])) == []


@open_files
def test_recordings_that_are_left_stop_and_are_freed(
    scripted: tuple[Transcriber, FakeEngine], clip: Path
) -> None:
    taken, told = 0, []

    def paths() -> Iterator[Path]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield clip

    results = scripted[0].transcribe_many(
        paths(), progress=lambda path, done, total: told.append(done)
    )
    text_in(next(results))
    results.close()  # type: ignore[attr-defined]
    assert taken <= MOST_FILES + 1
    assert not is_open(clip)
    count = len(told)
    time.sleep(0.05)
    assert len(told) == count


def test_given_up_recordings_are_cancelled_not_finished(
    scripted: tuple[Transcriber, FakeEngine], clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcriber, _ = scripted
    held, second = threading.Event(), threading.Event()
    results: list[RuntimeError] = []
    whole = transcriber.transcribe

    def transcribe(path: Path, *given: Any, progress: Any) -> Transcript:
        if path.name == "second.wav":
            second.set()
            assert held.wait(20)
        try:
            return whole(clip, *given, progress=progress)
        except RuntimeError as error:
            results.append(error)
            raise

    monkeypatch.setattr(transcriber, "transcribe", transcribe)
    stream = transcriber.transcribe_many([Path("first.wav"), Path("second.wav")])
    text_in(next(stream))
    assert second.wait(20)
    closing = threading.Thread(target=stream.close)  # type: ignore[attr-defined]
    closing.start()
    closing.join(0.2)
    held.set()
    closing.join(20)
    assert not closing.is_alive()
    (given_up,) = results
    assert str(given_up) == "given up"


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"task": "translate"}, "translate"),
        ({"language": "de"}, "`de`"),
        ({"condition_on_previous_text": True}, "`condition_on_previous_text`"),
        ({"chunk_seconds": 10}, "`chunk_seconds`"),
    ],
)
def test_option_that_cannot_be_honoured_is_refused_before_the_file_is_read(
    transcriber: Transcriber, tmp_path: Path, options: dict[str, object], told: str
) -> None:
    with pytest.raises(UnsupportedOption, match=told):
        transcriber.begin(tmp_path / "gone.wav", Options.of(**options))


def test_prompt_that_is_too_long_is_refused_before_the_file_is_read(
    transcriber: Transcriber, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="tokens"):
        transcriber.begin(tmp_path / "gone.wav", Options(initial_prompt="dog " * 300))


def test_audio_track_that_is_not_there_is_refused(transcriber: Transcriber, clip: Path) -> None:
    with pytest.raises(NoAudio):
        transcriber.transcribe(clip, Options(audio_track=3))


def test_model_of_another_kind_is_refused(models_dir: Path) -> None:
    with pytest.raises(UnsupportedOption, match="`silero-vad`"):
        Transcriber("silero-vad", store=Store(models_dir))


def test_unknown_model_and_engine_are_refused_by_name(models_dir: Path) -> None:
    with pytest.raises(UnknownName, match=r"`tiny\.english`"):
        Transcriber("tiny.english", store=Store(models_dir))
    with pytest.raises(UnknownName, match="`quantum`"):
        Transcriber("tiny.en", engine="quantum", store=Store(models_dir))


# --- a multilingual model (scripted) ----------------------------------------------------------

Multilingual = Callable[..., tuple[Transcriber, FakeEngine]]


@pytest.fixture
def multilingual(transcriber: Transcriber) -> Multilingual:
    """The real detector and tokens with an engine that knows languages."""

    def make(
        languages: list[dict[str, float]], script: Script = lambda asked: " ".join(story(20))
    ) -> tuple[Transcriber, FakeEngine]:
        engine = FakeEngine(
            vocabulary_of(transcriber), script, languages=languages, multilingual=True
        )
        return with_engine(transcriber, engine), engine

    return make


def test_detected_language_is_told_to_the_model_and_to_the_user(
    multilingual: Multilingual, speech_wav: Path
) -> None:
    transcriber, engine = multilingual([{"de": 0.95, "en": 0.05}])
    transcript = transcriber.transcribe(speech_wav, Options())
    assert (transcript.language, transcript.language_probability) == ("de", 0.95)
    assert transcript.flags == ()
    head = tuple(vocabulary_of(transcriber).head("de", "transcribe"))
    assert all(asked.prompt[:3] == head for asked in engine.asked)


def test_uncertain_language_is_flagged(multilingual: Multilingual, clip: Path) -> None:
    transcriber, _ = multilingual([{"de": 0.4, "en": 0.3}])
    assert transcriber.transcribe(clip).flags == ("language_uncertain",)
    assert transcriber.transcribe(clip, Options(language_threshold=0.4)).flags == ()


def test_given_language_is_not_detected(multilingual: Multilingual, clip: Path) -> None:
    transcriber, engine = multilingual([])
    transcript = transcriber.transcribe(clip, Options(language="german"))
    assert (transcript.language, transcript.language_probability) == ("de", 1.0)
    assert engine.detected == 0


def test_detection_loses_no_speech(multilingual: Multilingual, speech_wav: Path) -> None:
    transcriber, _ = multilingual([{"en": 0.95}])
    found = transcriber.transcribe(speech_wav)
    told = transcriber.transcribe(speech_wav, Options(language="en"))
    assert found.coverage == told.coverage
    assert [one.start for one in found.segments] == [one.start for one in told.segments]


@pytest.mark.parametrize("algorithm", [PACKED, SEQUENTIAL])
def test_nobody_speaks_no_language(
    multilingual: Multilingual, tmp_path: Path, algorithm: str
) -> None:
    transcriber, engine = multilingual([{"en": 1.0}])
    path = write_wav(tmp_path / "sound.wav", NO_SPEECH["silence"])
    transcript = transcriber.transcribe(path, Options(algorithm=algorithm))
    assert (transcript.language, transcript.language_probability) == ("und", 0.0)
    assert transcript.flags == ("no_speech",)
    assert engine.asked == []


def test_language_that_the_model_lacks_is_refused_before_the_file_is_read(
    multilingual: Multilingual, tmp_path: Path
) -> None:
    transcriber, _ = multilingual([])
    with pytest.raises(UnsupportedOption, match="`yue`"):
        transcriber.begin(tmp_path / "gone.wav", Options(language="cantonese"))


def test_speech_that_gives_no_text_is_flagged(multilingual: Multilingual, clip: Path) -> None:
    transcriber, _ = multilingual([{"en": 0.95}], lambda asked: "")
    transcript = transcriber.transcribe(clip)
    assert transcript.flags == ("speech_dropped",)
    assert transcript.coverage.speech_seconds == transcript.coverage.dropped_seconds > 5
    assert transcript.coverage.transcribed_seconds == 0


def test_what_the_model_calls_silence_is_flagged(multilingual: Multilingual, clip: Path) -> None:
    transcriber, engine = multilingual([{"en": 0.95}])
    silent = hypothesis(engine.vocabulary, "Thanks", logprob=-1.5, no_speech=0.9)
    engine.script = lambda asked: silent
    transcript = transcriber.transcribe(clip)
    assert transcript.text == ""
    assert transcript.flags == ("speech_dropped",)


# --- the package ------------------------------------------------------------------------------


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_import_loads_nothing_heavy() -> None:
    heavy = "{'ctranslate2', 'onnxruntime', 'av', 'numpy', 'tokenizers', 'typer', 'rich'}"
    assert run_python(f"import sys, stenopool; print({heavy} & set(sys.modules))") == "set()"


def test_public_names_are_the_curated_ones() -> None:
    assert stenopool.__all__ == [
        "Coverage",
        "ModelInfo",
        "Options",
        "Segment",
        "StenoError",
        "Timing",
        "Transcriber",
        "Transcript",
        "Word",
        "stream",
        "transcribe",
    ]
    listed = run_python("import stenopool; print(*dir(stenopool))").split()
    assert set(listed) == {*stenopool.__all__, "__version__"}


def test_every_public_name_is_there_and_others_are_not() -> None:
    code = "from stenopool import *; print(Transcriber.__name__, Options.__name__)"
    assert run_python(code) == "Transcriber Options"
    with pytest.raises(AttributeError, match="`nonsense`"):
        stenopool.nonsense  # noqa: B018


def test_transcript_after_a_failed_iteration_is_the_same_error(
    transcriber: Transcriber, tmp_path: Path
) -> None:
    running = transcriber.begin(tmp_path / "gone.wav")
    with pytest.raises(InputNotFound):
        list(running)
    with pytest.raises(InputNotFound):
        running.transcript()


def test_time_that_the_caller_takes_is_not_the_job_s(
    transcriber: Transcriber, speech_wav: Path
) -> None:
    running = transcriber.begin(speech_wav)
    begun = time.perf_counter()
    next(iter(running))
    time.sleep(3.0)
    transcript = running.transcript()
    assert transcript.timing.wall_seconds <= time.perf_counter() - begun - 2.9
