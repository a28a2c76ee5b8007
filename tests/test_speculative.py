"""Speculative decoding writes what greedy decoding writes, whatever the assistant drafts."""

from __future__ import annotations

import warnings
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stenopool import Transcriber, engines
from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import Features, log_mel
from stenopool.audio.media import Recording
from stenopool.decoding.options import Options
from stenopool.engines.base import Search
from stenopool.engines.torch import TorchEngine
from stenopool.engines.torch import speculative as module
from stenopool.engines.torch.engine import Unassisted
from stenopool.errors import UnsupportedOption, UsageError
from stenopool.models import Store
from stenopool.models.formats.ctranslate2_writer import write_ctranslate2
from stenopool.models.formats.model import Whisper
from stenopool.models.weights import LazyTensors, Stored
from whisper_models import MULTILINGUAL, SHAPE, tiny

GREEDY = Search(beam_size=1)
ROOMY = replace(SHAPE, text_positions=48, decoder_layers=1)
Tokens = tuple[int, ...]
START, NO_TIMESTAMPS = 50257, 50362  # of English models
EMBEDDING = "model.decoder.embed_tokens.weight"


def changed(whisper: Whisper, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Whisper:
    """The model with another tensor of this name."""
    stored = {**whisper.weights.stored(), name: Stored.of(change(whisper.weights.tensors[name]))}
    return replace(whisper, weights=replace(whisper.weights, tensors=LazyTensors(stored)))


def twinned(embedding: np.ndarray) -> np.ndarray:
    """Each two text tokens with the same logit, so that every choice of text is a tie."""
    found = embedding.copy()
    found[1:50256:2] = found[0:50256:2]
    return found


def written(whisper: Whisper, folder: Path) -> Path:
    folder.mkdir()
    write_ctranslate2(whisper, folder, "float32")
    return folder


def engine(folder: Path, assistant: Path | None = None) -> TorchEngine:
    return TorchEngine(folder, device="cpu", precision="float32", threads=2, assistant=assistant)


def heard(one: TorchEngine, features: Features, *, timestamps: bool, tokens: int) -> list[Tokens]:
    prompt = [START] if timestamps else [START, NO_TIMESTAMPS]
    search = replace(GREEDY, max_tokens=tokens)
    encoded = [one.encode(window[None]) for window in features]
    return [one.generate(each, [prompt], search)[0].tokens for each in encoded]


@pytest.fixture
def bold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Assistants draft on, however unsure they are: models of random numbers are, always."""
    monkeypatch.setattr(module, "DOUBTFUL", -np.inf)


@pytest.fixture(scope="module")
def noise() -> Features:
    """(3, 80, 3000) float32."""
    return np.random.default_rng(0).normal(size=(3, 80, 3000)).astype(np.float32)


# --- the same tokens, always ------------------------------------------------------------------


@pytest.mark.usefixtures("bold")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["itself", "another", "contrary"])
def test_tokens_are_those_of_greedy_decoding_with_any_assistant(
    tmp_path: Path, noise: Features, seed: int, kind: str
) -> None:
    model = tiny("float32", ROOMY, seed=seed)
    if seed == 1:
        model = changed(model, EMBEDDING, twinned)
    main = written(model, tmp_path / "main")
    assistant = {
        "itself": lambda: main,
        "another": lambda: written(tiny("float32", ROOMY, seed=seed + 100), tmp_path / "another"),
        "contrary": lambda: written(changed(model, EMBEDDING, np.negative), tmp_path / "contrary"),
    }[kind]()
    plain, assisted, window = engine(main), engine(main, assistant), noise[:1]
    for timestamps, tokens in ((False, 20), (True, 20), (False, 4)):
        wanted = heard(plain, window, timestamps=timestamps, tokens=tokens)
        assert heard(assisted, window, timestamps=timestamps, tokens=tokens) == wanted


@pytest.mark.usefixtures("bold")
def test_close_choices_are_made_a_token_at_a_time(
    tmp_path: Path, noise: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = written(changed(tiny("float32", ROOMY), EMBEDDING, twinned), tmp_path / "main")
    alone: list[int] = []
    whole = module._Checked._alone

    def counted(self: module._Checked, length: int) -> object:
        alone.append(length)
        return whole(self, length)

    monkeypatch.setattr(module._Checked, "_alone", counted)
    heard(engine(main, main), noise[:1], timestamps=False, tokens=24)
    assert len(alone) > 5


def test_drafts_that_are_right_save_calls_of_the_main_model(
    models_dir: Path, speech: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models_dir / "tiny.en"
    plain, assisted = engine(folder), engine(folder, folder)
    calls: list[int] = []
    whole = module._Checked.go_on

    def counted(self: module._Checked, drafted: list[int]) -> int:
        calls.append(len(drafted))
        return whole(self, drafted)

    monkeypatch.setattr(module._Checked, "go_on", counted)
    for timestamps in (False, True):
        calls.clear()
        (wanted,) = heard(plain, speech, timestamps=timestamps, tokens=448)
        (found,) = heard(assisted, speech, timestamps=timestamps, tokens=448)
        assert found == wanted
        assert len(wanted) > 15
        assert len(calls) < len(wanted) / 2.5


# --- what is shared, and what is refused ------------------------------------------------------


def test_encoder_is_shared_only_where_it_is_the_same(tmp_path: Path, noise: Features) -> None:
    model = tiny("float32", ROOMY)
    other = changed(model, "model.encoder.layer_norm.bias", lambda bias: bias + 0.01)
    main, own = written(model, tmp_path / "main"), written(other, tmp_path / "own")
    sharing, apart = engine(main, main), engine(main, own)
    assert sharing._assistance is not None
    assert apart._assistance is not None
    assert sharing._assistance.shares_encoder
    assert not apart._assistance.shares_encoder
    assert sharing.encode(noise).features is None  # type: ignore[attr-defined]
    assert apart.encode(noise).features is not None  # type: ignore[attr-defined]


def test_assistant_with_other_tokens_is_refused(tmp_path: Path) -> None:
    main = written(tiny("float32", ROOMY), tmp_path / "main")
    shape = replace(ROOMY, vocabulary=MULTILINGUAL)
    other = written(tiny("float32", shape), tmp_path / "multilingual")
    with pytest.raises(UsageError, match="`multilingual` cannot assist") as error:
        engine(main, other)
    assert "student" in error.value.do


def test_quantised_model_is_refused_an_assistant(tmp_path: Path) -> None:
    main = written(tiny("float32", ROOMY), tmp_path / "main")
    with pytest.raises(UnsupportedOption, match="int8"):
        TorchEngine(main, device="cpu", precision="int8", threads=1, assistant=main)


def test_assistant_is_left_out_where_it_does_not_help_and_that_is_told_once(
    tmp_path: Path, noise: Features
) -> None:
    main = written(tiny("float32", ROOMY), tmp_path / "main")
    plain, assisted = engine(main), engine(main, main)
    assert (assisted.beam_size, assisted.batch_size) == (1, 1)
    prompts, search = [[START, NO_TIMESTAMPS]], Search(beam_size=1, max_tokens=8)
    many = prompts * 3
    encoded = assisted.encode(noise)
    with pytest.warns(Unassisted, match="several windows"):
        found = assisted.generate(encoded, many, search)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert assisted.generate(encoded, many, search) == found
    assert plain.generate(plain.encode(noise), many, search) == found
    one = assisted.encode(noise[:1])
    for name, other in {
        "beam": replace(search, beam_size=2),
        "sampl": Search(temperature=1.0),
    }.items():
        with pytest.warns(Unassisted, match=name):
            assisted.generate(one, prompts, replace(other, max_tokens=8))


def test_other_engines_refuse_an_assistant(models_dir: Path) -> None:
    folder = models_dir / "tiny.en"
    with pytest.raises(UnsupportedOption, match="takes no assistant") as error:
        engines.load(folder, engines.choose("openvino"), folder)
    assert "--engine torch" in error.value.do
    with pytest.raises(UnsupportedOption, match="no Whisper model"):
        Transcriber(
            folder, engine="torch", device="cpu", store=Store(models_dir), assistant="silero-vad"
        )


def test_transcript_is_the_same_with_an_assistant(
    models_dir: Path, speech_wav: Path, tmp_path: Path
) -> None:
    store, options, clip = Store(models_dir), Options(beam_size=1), tmp_path / "clip.wav"
    with wave.open(str(speech_wav)) as whole, wave.open(str(clip), "wb") as cut:
        cut.setparams(whole.getparams())
        cut.writeframes(whole.readframes(7 * whole.getframerate()))
    plain, assisted = (
        Transcriber("tiny.en", engine="torch", device="cpu", store=store, assistant=assistant)
        for assistant in (None, models_dir / "tiny.en")
    )
    expected, found = (one.transcribe(clip, options) for one in (plain, assisted))
    assert found.text == expected.text
    times = [
        [(word.start, word.end) for one in each.segments for word in one.words]
        for each in (found, expected)
    ]
    assert times[0] == times[1]
    assert found.model.engine == "torch"


@pytest.fixture(scope="module")
def speech(speech_wav: Path) -> Features:
    """(1, 80, 1000) float32: nine seconds, a short window."""
    with Recording(speech_wav) as recording:
        samples = np.concatenate(list(recording))[: 9 * SAMPLE_RATE]
    return np.ascontiguousarray(log_mel(samples, 80)[None, :, : TorchEngine.short_frames])


def test_float16_rounding_is_covered_by_what_counts_as_close() -> None:
    """Choices of 16 bits are further apart than those numbers have steps near the largest logit."""
    for name in ("float16", "bfloat16"):
        steps = 32 * torch.finfo(getattr(torch, name)).eps
        assert module.CLOSE[name] >= steps * 2
