from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest

from fakes import vocabulary_of
from sounds import tone
from stenopool import Transcriber, engines
from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import Features, log_mel
from stenopool.audio.media import Recording
from stenopool.decoding.tokens import Vocabulary
from stenopool.engines.base import Engine, Search
from stenopool.engines.ctranslate2 import CTranslate2Engine
from stenopool.engines.openvino import processor
from stenopool.errors import EngineFailed, EngineMissing, ModelDamaged, UnknownName

SECONDS = 6.0
GREEDY = Search(beam_size=1)

without_cuda = pytest.mark.skipif(engines.cuda_devices() > 0, reason="this machine has CUDA")


@pytest.fixture(scope="module", params=engines.ENGINES)
def engine(request: pytest.FixtureRequest, models_dir: Path) -> Engine:
    """Each engine in turn, on the CPU."""
    choice = engines.choose(request.param, "cpu")
    return engines.load(models_dir / "tiny.en", choice)


@pytest.fixture(scope="module")
def ctranslate2_engine(models_dir: Path) -> Engine:
    return CTranslate2Engine(models_dir / "tiny.en", device="cpu", threads=1)


@pytest.fixture
def vocabulary(transcriber: Transcriber) -> Vocabulary:
    return vocabulary_of(transcriber)


@pytest.fixture(scope="module")
def features(speech_wav: Path) -> Features:
    """(2, 80, 3000) float32: six seconds of speech, and the six after them."""
    with Recording(speech_wav) as recording:
        samples = np.concatenate(list(recording))[: round(2 * SECONDS * SAMPLE_RATE)]
    return np.stack([log_mel(half, 80) for half in np.split(samples, 2)])


def prompt(vocabulary: Vocabulary, *, timestamps: bool = False) -> list[int]:
    head = vocabulary.head(None, "transcribe")
    return vocabulary.prompt(head, (), timestamps=timestamps)


# --- which engine -----------------------------------------------------------------------------


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "cuda_devices", lambda: 0)


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(
    ("machine", "engine"),
    [("x86_64", "openvino"), ("AMD64", "openvino"), ("arm64", "ctranslate2")],
)
def test_cpu_gets_the_engine_that_is_fastest_on_it(
    monkeypatch: pytest.MonkeyPatch, machine: str, engine: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    choice = engines.choose()
    assert (choice.engine, choice.device) == (engine, "cpu")
    assert choice.threads == engines.usable_cores() >= 1
    assert "no CUDA" in choice.why
    asked = engines.choose(device="cpu")
    assert (asked.engine, asked.device) == (engine, "cpu")
    assert "asked" in asked.why


@pytest.mark.usefixtures("no_cuda")
def test_without_openvino_ctranslate2_runs_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "openvino" else object())
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    choice = engines.choose()
    assert (choice.engine, choice.device, choice.precision) == ("ctranslate2", "cpu", "int8")
    with pytest.raises(EngineMissing, match="OpenVINO is not installed") as error:
        engines.choose("openvino")
    assert "pip install openvino" in error.value.do


def test_openvino_is_refused_on_cuda() -> None:
    with pytest.raises(EngineMissing, match="CPUs only") as error:
        engines.choose("openvino", "cuda")
    assert "ctranslate2" in error.value.do


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx_vnni", "int8"),
        ("fpu avx2", "int8"),
        ("fpu sse4_2", "float32"),
        ("", "float32"),
    ],
)
def test_precision_is_what_the_cpu_multiplies_fastest(
    monkeypatch: pytest.MonkeyPatch, flags: str, expected: str
) -> None:
    monkeypatch.setattr(processor, "flags", lambda: frozenset(flags.split()))
    assert engines.choose("openvino").precision == expected


def test_cpu_that_was_asked_for_is_used_and_said() -> None:
    choice = engines.choose("ctranslate2", "cpu", threads=1)
    assert (choice.device, choice.threads) == ("cpu", 1)
    assert "asked" in choice.why


def test_no_more_threads_than_cores_are_started() -> None:
    assert engines.choose(threads=100_000).threads == engines.usable_cores()


def test_cuda_is_chosen_where_there_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "cuda_devices", lambda: 1)
    assert engines.choose().device == engines.choose(device="cuda").device == "cuda"
    assert engines.choose().engine == "ctranslate2"
    assert engines.choose().precision == "float16"
    assert engines.choose(device="cpu").device == "cpu"


@without_cuda
def test_cuda_is_refused_where_there_is_none(models_dir: Path) -> None:
    with pytest.raises(EngineMissing, match="CUDA") as error:
        engines.choose(device="cuda")
    assert "`--device cpu`" in error.value.do
    with pytest.raises(EngineMissing, match="CUDA"):
        CTranslate2Engine(models_dir / "tiny.en", device="cuda", threads=1)


@pytest.mark.parametrize(("engine", "device"), [("whisperx", "auto"), ("auto", "tpu")])
def test_unknown_name_is_refused_with_the_known_ones(engine: str, device: str) -> None:
    with pytest.raises(UnknownName, match=r"`(whisperx|tpu)`") as error:
        engines.choose(engine, device)
    assert "auto" in error.value.do


def test_engine_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    for engine in ("auto", "ctranslate2"):
        with pytest.raises(EngineMissing, match="CTranslate2"):
            engines.choose(engine)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_only_cores_that_may_be_used_are_counted() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert engines.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


# --- loading ----------------------------------------------------------------------------------


@pytest.fixture
def broken(models_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "tiny.en"
    shutil.copytree(models_dir / "tiny.en", folder)
    return folder


def load(folder: Path, engine: str) -> Engine:
    return engines.load(folder, engines.choose(engine, "cpu", threads=1))


@pytest.mark.parametrize("engine", engines.ENGINES)
@pytest.mark.parametrize("size", [0, 10, 100_000, 40_000_000])
def test_truncated_weights_are_refused(broken: Path, size: int, engine: str) -> None:
    os.truncate(broken / "model.bin", size)
    with pytest.raises(ModelDamaged, match=r"`(tiny\.en|model\.bin)`") as error:
        load(broken, engine)
    assert "--force" in error.value.do


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_missing_weights_are_refused(broken: Path, engine: str) -> None:
    (broken / "model.bin").unlink()
    with pytest.raises(ModelDamaged, match=r"`(tiny\.en|model\.bin)`"):
        load(broken, engine)


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_folder_that_is_not_there_is_refused(tmp_path: Path, engine: str) -> None:
    with pytest.raises(ModelDamaged, match=r"(nothing|model\.bin|tokenizer\.json)`"):
        load(tmp_path / "nothing", engine)


def test_loaded_model_says_what_it_is(engine: Engine) -> None:
    choice = engines.choose(engine.name, "cpu")
    assert (engine.device, engine.precision) == ("cpu", choice.precision)
    assert engine.mel_bins == 80
    assert engine.multilingual is False
    assert engine.workers >= 1
    assert engine.batch_size >= 1
    assert engine.beam_size >= 1


def test_name_that_was_asked_for_is_loaded(
    engine: Engine, ctranslate2_engine: Engine, request: pytest.FixtureRequest
) -> None:
    assert engine.name == request.node.callspec.params["engine"]
    assert (ctranslate2_engine.name, ctranslate2_engine.precision) == ("ctranslate2", "int8")


# --- running ----------------------------------------------------------------------------------


def test_each_window_gets_its_text_and_figures(
    engine: Engine, vocabulary: Vocabulary, features: Features
) -> None:
    encoded = engine.encode(features)
    first, second = engine.generate(encoded, [prompt(vocabulary)] * 2, GREEDY)
    assert "best of times" in vocabulary.text(first.tokens).lower()
    assert "foolishness" in vocabulary.text(second.tokens).lower()
    for one in (first, second):
        assert vocabulary.end not in one.tokens
        assert all(token < vocabulary.first_timestamp for token in one.tokens)
        assert -1.0 < one.avg_logprob < 0.0
        assert 0.0 <= one.no_speech_prob < 0.5


def test_timestamps_are_written_when_the_prompt_allows_them(
    engine: Engine, vocabulary: Vocabulary, features: Features
) -> None:
    encoded = engine.encode(features[:1])
    (found,) = engine.generate(encoded, [prompt(vocabulary, timestamps=True)], GREEDY)
    assert found.tokens[0] >= vocabulary.first_timestamp
    assert found.tokens[-1] >= vocabulary.first_timestamp


def test_temperature_draws_samples_and_zero_does_not(
    ctranslate2_engine: Engine, vocabulary: Vocabulary, features: Features
) -> None:
    encoded = ctranslate2_engine.encode(features[:1])
    told = [prompt(vocabulary)]
    plain = [ctranslate2_engine.generate(encoded, told, GREEDY)[0].tokens for _ in range(2)]
    assert plain[0] == plain[1]
    wild = Search(temperature=1.5, best_of=1, max_tokens=20)
    assert len({ctranslate2_engine.generate(encoded, told, wild)[0].tokens for _ in range(4)}) > 1


def test_best_of_several_samples_is_taken(
    engine: Engine, vocabulary: Vocabulary, features: Features
) -> None:
    encoded = engine.encode(features[:1])
    told = [prompt(vocabulary)]
    (best,) = engine.generate(encoded, told, Search(temperature=0.8, best_of=5))
    lone = [engine.generate(encoded, told, Search(temperature=0.8, best_of=1)) for _ in range(5)]
    assert best.avg_logprob > np.mean([one.avg_logprob for (one,) in lone]) - 0.1


def test_limit_of_tokens_is_kept(
    engine: Engine, vocabulary: Vocabulary, features: Features
) -> None:
    encoded = engine.encode(features[:1])
    told = prompt(vocabulary)
    (found,) = engine.generate(encoded, [told], Search(beam_size=1, max_tokens=len(told) + 5))
    assert 0 < len(found.tokens) <= 6


def test_alignment_has_a_start_for_each_token_and_the_end(
    engine: Engine, vocabulary: Vocabulary, features: Features
) -> None:
    encoded = engine.encode(features)
    found = engine.generate(encoded, [prompt(vocabulary)] * 2, GREEDY)
    texts = [vocabulary.text_tokens(one.tokens) for one in found]
    head = vocabulary.head(None, "transcribe")
    aligned = engine.align(encoded, head, texts, [SECONDS, SECONDS])
    assert len(aligned) == 2
    for one, text in zip(aligned, texts, strict=True):
        assert one.starts.shape == (len(text) + 1,)
        assert one.starts.dtype == np.float64
        assert (np.diff(one.starts) >= 0).all()
        assert one.starts[0] >= 0
        assert one.starts[-1] <= SECONDS


@pytest.mark.parametrize("count", [445, 446, 447, 460])
def test_text_that_fills_the_decoder_is_aligned(
    engine: Engine, vocabulary: Vocabulary, features: Features, count: int
) -> None:
    """It holds 448 tokens; a text in a loop may reach them, the end after it does not fit."""
    text = [1000 + number for number in range(count)]
    head = vocabulary.head(None, "transcribe")
    (found,) = engine.align(engine.encode(features[:1]), head, [text], [SECONDS])
    assert found.starts.shape == (count + 1,)
    assert (np.diff(found.starts) >= 0).all()
    if found.probabilities is not None:
        assert found.probabilities.shape == (count,)
        assert (found.probabilities[:445] > 0).all()


def test_probability_of_each_token_is_told_once(
    engine: Engine, vocabulary: Vocabulary, features: Features
) -> None:
    encoded = engine.encode(features[:1])
    (found,) = engine.generate(encoded, [prompt(vocabulary)], GREEDY)
    text = vocabulary.text_tokens(found.tokens)
    (aligned,) = engine.align(encoded, vocabulary.head(None, "transcribe"), [text], [SECONDS])
    told = [
        one for one in (found.probabilities, aligned.probabilities) if one is not None and len(one)
    ]
    assert len(told) == 1
    assert len(told[0]) == len(text)
    assert all(0 < share <= 1 for share in told[0])


def test_silence_is_probably_no_speech(engine: Engine, vocabulary: Vocabulary) -> None:
    sounds = [np.zeros(SAMPLE_RATE), tone(1.0, hz=100)]
    features = np.stack([log_mel(sound.astype(np.float32), 80) for sound in sounds])
    found = engine.generate(engine.encode(features), [prompt(vocabulary)] * 2, GREEDY)
    assert all(one.no_speech_prob > 0.5 for one in found)


def test_failure_of_the_library_is_an_error_with_advice(
    ctranslate2_engine: Engine, vocabulary: Vocabulary, features: Features
) -> None:
    encoded = ctranslate2_engine.encode(features)
    with pytest.raises(EngineFailed, match="CTranslate2 failed") as error:
        ctranslate2_engine.generate(
            encoded, [prompt(vocabulary)], GREEDY
        )  # one prompt for two windows
    assert error.value.transient
    assert error.value.do
    with pytest.raises(EngineFailed):
        ctranslate2_engine.detect_language(encoded)  # an English-only model
