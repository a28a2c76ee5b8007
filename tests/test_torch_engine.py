"""The PyTorch engine beside Transformers, and beside OpenVINO in the same precision."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from stenopool import engines
from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import Features, log_mel
from stenopool.audio.media import Recording
from stenopool.decoding.tokens import Vocabulary
from stenopool.engines.base import Search
from stenopool.engines.openvino import OpenVINOEngine
from stenopool.engines.rules import Rules
from stenopool.engines.search import Beams, Greedy
from stenopool.engines.special import special_tokens
from stenopool.engines.torch import TorchEngine
from stenopool.engines.torch.linear import MOST, PAIR, linear
from stenopool.engines.torch.model import Model, _replaced
from stenopool.engines.torch.parts import ATTENTIONS, Place
from stenopool.errors import EngineFailed, EngineMissing, UnknownName, UnsupportedOption
from stenopool.models.formats.ctranslate2_writer import write_ctranslate2
from stenopool.settings import settings
from stenopool.training.whisper_models import torch_model
from whisper_models import SHAPE, tiny

SECONDS, WINDOWS = 11.0, 2
GREEDY = Search(beam_size=1)
LATER = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def features(speech_wav: Path) -> Features:
    """(2, 80, 3000) float32: eleven seconds of speech each."""
    with Recording(speech_wav) as recording:
        samples = np.concatenate(list(recording))[: round(WINDOWS * SECONDS * SAMPLE_RATE)]
    return np.stack([log_mel(part, 80) for part in np.split(samples, WINDOWS)])


@pytest.fixture(scope="module")
def folder(models_dir: Path) -> Path:
    return models_dir / "tiny.en"


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    return Vocabulary(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def engine(folder: Path) -> TorchEngine:
    return TorchEngine(folder, device="cpu", precision="float32", threads=2)


@pytest.fixture(scope="module")
def peer(folder: Path) -> OpenVINOEngine:
    return OpenVINOEngine(folder, precision="float32", threads=2)


# --- the networks -----------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.inference_mode()
def test_logits_are_those_of_transformers_in_one_go_and_token_by_token(
    tmp_path: Path, attention: str
) -> None:
    whisper = tiny("float32", replace(SHAPE, width=128))
    write_ctranslate2(whisper, tmp_path, "float32")
    special = special_tokens(tmp_path, whisper.weights.generation)
    model = Model(whisper.weights, special, Place("cpu", "float32", attention))
    random = np.random.default_rng(1)
    windows = random.normal(size=(2, 80, 3000)).astype(np.float32)
    tokens = torch.from_numpy(random.integers(0, 50000, (2, 12)))
    theirs = torch_model(whisper.weights, whisper.tokens)(
        input_features=torch.from_numpy(windows), decoder_input_ids=tokens
    ).logits
    heard = model.decoder.heard(model.states(windows))
    whole = model.decoder.logits(model.decoder(tokens, model.decoder.cache(2), heard))
    assert (whole - theirs).abs().max() < 1e-4
    cache = model.decoder.cache(2)
    split = torch.tensor_split(tokens, [5, 6, 9, 10, 11], dim=1)
    parts = [model.decoder(part, cache, heard) for part in split]
    assert (model.decoder.logits(torch.cat(parts, 1)) - theirs).abs().max() < 1e-4


@torch.inference_mode()
def test_logits_of_real_weights_are_those_of_transformers(
    engine: TorchEngine, folder: Path, features: Features
) -> None:
    from stenopool.models.formats.reading import read_whisper

    whisper, model = read_whisper(folder), engine._model
    tokens = torch.tensor([[50257, 50362, 383, 612, 373, 257, 640]])
    theirs = torch_model(whisper.weights, whisper.tokens)(
        input_features=torch.from_numpy(features[:1]), decoder_input_ids=tokens
    ).logits
    heard = model.decoder.heard(model.states(features[:1]))
    ours = model.decoder.logits(model.decoder(tokens, model.decoder.cache(1), heard))
    assert (ours - theirs).abs().max() < 1e-3  # of logits up to 30
    assert (ours - theirs).abs().mean() < 1e-4


@pytest.mark.parametrize("rows", [1, PAIR, PAIR + 1, MOST, MOST + 1, 40])
@pytest.mark.parametrize("outputs", [48, 640])  # the latter is large
@pytest.mark.parametrize("precision", ["float32", "int8", "bfloat16"])
@pytest.mark.parametrize("intel", [True, False])
def test_linear_layer_is_the_product_with_its_weight(
    rows: int, outputs: int, precision: str, intel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stenopool.engines.torch.linear._intel", lambda: intel)
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, 64, generator=random)
    bias = torch.randn(outputs, generator=random)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    x = torch.randn(1, rows, 64, generator=random)
    expected = x @ weight.T + bias
    found = linear(weight, bias, "cpu", dtype, precision)(x.to(dtype))
    assert found.shape == expected.shape
    limit = {"float32": 1e-4, "int8": 0.3, "bfloat16": 0.3}[precision]
    assert (found.float() - expected).abs().max() < limit


def test_better_logits_take_the_place_of_rough_ones_in_the_sum() -> None:
    exact = torch.randn(3, 200, generator=torch.Generator().manual_seed(0)) * 5
    rough = exact + 0.05
    values, ids = rough.topk(16, 1)
    better = exact.gather(1, ids)
    found = _replaced(rough.logsumexp(1), values, better)
    assert (found - exact.logsumexp(1)).abs().max() < 0.01
    assert (found >= better.logsumexp(1)).all()


# --- beside OpenVINO --------------------------------------------------------------------------


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("search", [GREEDY, Search(beam_size=3)], ids=["greedy", "beams"])
def test_tokens_and_figures_are_those_of_openvino(
    engine: TorchEngine,
    peer: OpenVINOEngine,
    features: Features,
    vocabulary: Vocabulary,
    search: Search,
    timestamps: bool,
) -> None:
    prompt = vocabulary.prompt(vocabulary.head(None, "transcribe"), (), timestamps=timestamps)
    found, expected = (
        one.generate(one.encode(features), [prompt] * WINDOWS, search) for one in (engine, peer)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tokens == theirs.tokens
        assert len(ours.tokens) > 15
        assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=1e-3)
        assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, abs=1e-4)
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-2)


def test_samples_are_those_of_openvino(
    engine: TorchEngine, peer: OpenVINOEngine, features: Features, vocabulary: Vocabulary
) -> None:
    prompt = vocabulary.prompt(vocabulary.head(None, "transcribe"), (), timestamps=False)
    search = Search(temperature=0.4, best_of=3)
    found, expected = (
        one.generate(one.encode(features[:1]), [prompt], search) for one in (engine, peer)
    )
    assert found[0].tokens == expected[0].tokens


def test_tokens_begin_where_openvino_says(
    engine: TorchEngine, peer: OpenVINOEngine, features: Features, vocabulary: Vocabulary
) -> None:
    head = vocabulary.head(None, "transcribe")
    prompt = vocabulary.prompt(head, (), timestamps=False)
    encoded = engine.encode(features)
    texts = [one.tokens for one in engine.generate(encoded, [prompt] * WINDOWS, GREEDY)]
    ours = engine.align(encoded, head, texts, [SECONDS] * WINDOWS)
    theirs = peer.align(peer.encode(features), head, texts, [SECONDS] * WINDOWS)
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one.starts - other.starts).max() < 0.05


def test_short_window_is_heard_without_its_silence(
    engine: TorchEngine, speech_wav: Path, vocabulary: Vocabulary
) -> None:
    with Recording(speech_wav) as recording:
        samples = np.concatenate(list(recording))[: 6 * SAMPLE_RATE]
    whole = log_mel(samples, 80)[None]
    short = np.ascontiguousarray(whole[:, :, : engine.short_frames])
    prompt = vocabulary.prompt(vocabulary.head(None, "transcribe"), (), timestamps=False)
    (found,) = engine.generate(engine.encode(short), [prompt], GREEDY)
    assert "best of times" in vocabulary.text(found.tokens).lower()
    text = vocabulary.text_tokens(found.tokens)
    (aligned,) = engine.align(
        engine.encode(short), vocabulary.head(None, "transcribe"), [text], [6]
    )
    assert 3 < aligned.starts[-1] <= 6


@pytest.mark.parametrize(
    "search", [GREEDY, *map(LATER, (Search(beam_size=4), Search(temperature=0.5)))]
)
def test_window_is_heard_the_same_whatever_is_beside_it(
    engine: TorchEngine, features: Features, vocabulary: Vocabulary, search: Search
) -> None:
    prompt = vocabulary.prompt(vocabulary.head(None, "transcribe"), (), timestamps=False)
    silence = log_mel(np.zeros(SAMPLE_RATE, np.float32), 80)[None]  # it ends sooner
    together = np.concatenate([silence, features[:1], silence, features[1:]])
    lone = [
        engine.generate(engine.encode(one[None]), [prompt], search)[0].tokens for one in together
    ]
    found = engine.generate(engine.encode(together), [prompt] * 4, search)
    assert [one.tokens for one in found] == lone


# --- precision and choice ---------------------------------------------------------------------


def test_int8_weights_write_the_same_words(
    folder: Path, features: Features, vocabulary: Vocabulary
) -> None:
    engine = TorchEngine(folder, device="cpu", precision="int8", threads=2)
    prompt = vocabulary.prompt(vocabulary.head(None, "transcribe"), (), timestamps=False)
    (found,) = engine.generate(engine.encode(features[:1]), [prompt], GREEDY)
    assert "best of times" in vocabulary.text(found.tokens).lower()


def test_torch_is_chosen_only_when_it_is_asked_for() -> None:
    assert engines.choose(device="cpu").engine != "torch"
    choice = engines.choose("torch", "cpu", threads=1)
    assert (choice.engine, choice.precision, choice.attention) == ("torch", "float32", "sdpa")
    assert engines.choose("torch", "cpu", attention="eager").attention == "eager"


def test_missing_torch_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(EngineMissing, match="PyTorch is not installed") as error:
        engines.choose("torch")
    assert "stenopool[train]" in error.value.do


def test_what_the_device_lacks_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "flash" in ATTENTIONS
    with pytest.raises(EngineMissing, match="Flash Attention 2 needs CUDA") as error:
        engines.choose("torch", "cpu", attention="flash")
    assert "sdpa" in error.value.do
    with pytest.raises(UnknownName, match="`magic`"):
        engines.choose("torch", "cpu", attention="magic")
    with pytest.raises(UnsupportedOption, match="PyTorch"):
        engines.choose("openvino", "cpu", attention="eager")
    monkeypatch.setattr(settings(), "torch_precision", "int4")
    with pytest.raises(EngineMissing, match="4-bit") as error:
        engines.choose("torch", "cpu")
    assert "int8" in error.value.do
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineMissing, match="no CUDA device"):
        engines.choose("torch", "cuda")


def test_failure_is_an_error_with_advice(
    engine: TorchEngine, features: Features, vocabulary: Vocabulary
) -> None:
    encoded = engine.encode(features)
    with pytest.raises(EngineFailed, match="PyTorch failed") as error:
        engine.generate(encoded, [vocabulary.head(None, "transcribe")], GREEDY)  # for two windows
    assert error.value.transient


def test_greedy_search_is_a_beam_of_one(engine: TorchEngine, features: Features) -> None:
    special, model = engine._special, engine._model
    for timestamps in (False, True):
        rules = Rules(special, timestamps=timestamps)
        greedy, beam = Greedy(rules, special), Beams(rules, special, 1)
        prompt = [special.start, *([] if timestamps else [special.no_timestamps])]
        with torch.inference_mode():
            heard = model.decoder.heard(model.states(features[:1]))
            cache, tokens = model.decoder.cache(1), prompt
            while not greedy.done:
                following = model.following(model.fed([tokens], cache, heard)[:, -1])
                greedy.advance(following)
                beam.advance(following)
                assert greedy.done == beam.done
                tokens = greedy.tokens
        assert greedy.best(0.1) == beam.best(0.1)
        assert len(greedy.path) > 15
