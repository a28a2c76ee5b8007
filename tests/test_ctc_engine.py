"""wav2vec 2.0 on OpenVINO beside Transformers, and models that are damaged or hostile."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctc_models import CONFIG, SYMBOLS, safetensors, write_json, write_model
from stenopool import engines
from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.decoding.ctc.alphabet import Alphabet
from stenopool.decoding.ctc.path import best_path, words_of
from stenopool.errors import EngineFailed, EngineMissing, ModelDamaged
from stenopool.models import Store
from stenopool.models.safetensors import read_safetensors
from stenopool.models.wav2vec2 import read_wav2vec2
from stenopool.settings import settings

pytest.importorskip("openvino")

from stenopool.engines.ctc.openvino import OpenVinoCtcEngine

KINDS: dict[str, dict[str, Any]] = {
    "group": {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False},
    "layer": {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
    "odd": {"feat_extract_norm": "group", "num_conv_pos_embeddings": 15, "hidden_act": "relu"},
}
LENGTHS = (16_000, 7_001, 40_321, 16_000)


def sounds() -> list[Samples]:
    random = np.random.default_rng(0)
    return [(random.standard_normal(n) * 0.1 + 0.02).astype(np.float32) for n in LENGTHS]


def opened(folder: Path, precision: str = "float32") -> OpenVinoCtcEngine:
    return OpenVinoCtcEngine(folder, precision=precision, threads=2)


@pytest.mark.parametrize("kind", KINDS)
def test_stretch_does_not_depend_on_its_batch(kind: str, tmp_path: Path) -> None:
    engine = opened(write_model(tmp_path / "m", **KINDS[kind]))
    together = engine.emissions(sounds())
    for samples, found in zip(sounds(), together, strict=True):
        (alone,) = engine.emissions([samples])
        assert found.shape == alone.shape
        assert np.abs(found - alone).max() < 1e-3
        assert np.allclose(np.exp(found).sum(axis=1), 1.0, atol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_lower_precision_says_nearly_the_same(precision: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    exact, rough = opened(folder).logits(sounds()), opened(folder, precision).logits(sounds())
    for one, other in zip(exact, rough, strict=True):
        assert np.abs(one - other).mean() < 0.1 * one.std()


def test_numbers_that_overflow_are_an_error(tmp_path: Path) -> None:
    """Else the first symbol, which is often the blank, would be the best, for no text."""
    folder = write_model(tmp_path)
    with pytest.raises(EngineFailed, match="overflows"):
        opened(folder).emissions([np.full(SAMPLE_RATE, np.nan, dtype=np.float32)])


def test_what_openvino_refuses_is_an_error_with_advice(tmp_path: Path) -> None:
    engine = opened(write_model(tmp_path / "m"))
    with pytest.raises(EngineFailed, match="OpenVINO failed") as error:
        engine._groups[0].infer({"samples": np.zeros((2, 2, 2, 2), np.float32)})
    assert "report" in error.value.do
    assert engine.logits(sounds())[0].size  # and it goes on


def test_sound_shorter_than_a_frame_has_none(tmp_path: Path) -> None:
    engine = opened(write_model(tmp_path / "m"))
    found = engine.emissions([np.zeros(399, np.float32), np.zeros(400, np.float32)])
    assert [one.shape for one in found] == [(0, len(SYMBOLS)), (1, len(SYMBOLS))]
    assert engine.emissions([]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_text_are_those_of_transformers(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(**{**CONFIG, **KINDS[kind]})
    model = transformers.Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                tensor.add_(0.1 * torch.randn_like(tensor))
        model.lm_head.weight.mul_(20)
    write_json(tmp_path / "v.json", {one: number for number, one in enumerate(SYMBOLS)})
    tokens = {"unk_token": "[UNK]", "pad_token": "[PAD]", "word_delimiter_token": "|"}
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "v.json"), **tokens)
    masked = config.feat_extract_norm == "layer"
    extractor = transformers.Wav2Vec2FeatureExtractor(
        do_normalize=True, return_attention_mask=masked
    )
    processor = transformers.Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)
    folder = tmp_path / "m"
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    engine = opened(folder)
    alphabet = Alphabet.read(folder, engine.symbols, engine.blank)
    ours = engine.logits(sounds())
    for samples, found in zip(sounds(), ours, strict=True):
        given = extractor(samples, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            wanted = model(**given).logits[0].numpy()
        assert np.abs(found - wanted).max() < 1e-3
        assert text(found, alphabet) == theirs(tokenizer, wanted)
    given = extractor(sounds(), sampling_rate=16_000, return_tensors="pt", padding=True)
    with torch.no_grad():
        padded = model(**given).logits.numpy()
    if not masked:  # there Transformers lets padding be sound: so it must be for us to compare
        longest = max(LENGTHS)
        full = [np.pad(one, (0, longest - len(one))) for one in sounds()]
        ours = engine.logits(full)
    for found, wanted in zip(ours, padded, strict=True):
        assert np.abs(found - wanted[: len(found)]).max() < 1e-3


def text(logits: Any, alphabet: Alphabet) -> str:
    words = words_of(best_path(logits, alphabet.blank), alphabet)
    return " ".join(alphabet.text([one.symbol for one in word.symbols]) for word in words)


def theirs(tokenizer: Any, logits: Any) -> str:
    said = tokenizer.decode(logits.argmax(axis=-1)).replace("[UNK]", "")
    return " ".join(said.split())


# --- folders -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copied"))


def test_folder_is_a_ctc_model_whose_identity_is_all_its_files(copied: Path) -> None:
    first = Store().resolve(copied)
    assert (first.kind, first.weights.name) == ("ctc", "model.safetensors")
    assert Store().resolve(copied).sha256 == first.sha256
    write_json(copied / "scorer.json", {"alpha": 1})
    assert Store().resolve(copied).sha256 != first.sha256


def test_pickled_weights_are_refused_with_advice(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelDamaged) as caught:
        Store().resolve(copied)
    assert "safe_serialization" in caught.value.do


Damage = Callable[[Path], object]
CONFIGS: dict[str, dict[str, Any]] = {
    "absurd width": {"hidden_size": 10**12},
    "other width": {"hidden_size": 48},
    "no layers": {"num_hidden_layers": 0},
    "truth": {"num_hidden_layers": True},
    "lists that differ": {"conv_dim": [8]},
    "no list": {"conv_stride": "5"},
    "empty list": {"conv_dim": [], "conv_kernel": [], "conv_stride": []},
    "endless stride": {"conv_stride": [1000] * 7},
    "heads": {"num_attention_heads": 7},
    "activation": {"hidden_act": "swish"},
    "norm": {"feat_extract_norm": None},
    "blank": {"pad_token_id": 1000},
    "adapter": {"add_adapter": True},
    "epsilon": {"layer_norm_eps": "x"},
    "vocabulary": {"vocab_size": 31},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_that_cannot_be_is_refused(copied: Path, name: str) -> None:
    write_json(copied / "config.json", {**CONFIG, **CONFIGS[name]})
    with pytest.raises(ModelDamaged):
        read_wav2vec2(copied)


def header(changes: dict[str, Any]) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        said = json.loads(data[8 : 8 + length])
        said["lm_head.bias"] |= changes
        text = json.dumps(said).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return damage


def number_of_bias(number: float) -> Damage:
    """The bias of the first symbol."""

    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = bytearray(file.read_bytes())
        (length,) = struct.unpack("<Q", data[:8])
        at = 8 + length + json.loads(data[8 : 8 + length])["lm_head.bias"]["data_offsets"][0]
        data[at : at + 4] = struct.pack("<f", number)
        file.write_bytes(data)

    return damage


def cut(count: int) -> Damage:
    return lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:count]
    )


DAMAGES: dict[str, Damage] = {
    "cut in the numbers": cut(-10),
    "cut in the header": cut(100),
    "cut in the length": cut(5),
    "empty": cut(0),
    "a long header": lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100),
    "no tensors": lambda folder: (folder / "model.safetensors").write_bytes(safetensors({})),
    "offsets beyond the end": header({"data_offsets": [10**15, 10**15 + 120]}),
    "offsets that do not agree": header({"data_offsets": [0, 1]}),
    "negative offsets": header({"data_offsets": [-120, 0]}),
    "another shape": header({"shape": [15, 2]}),
    "a shape of text": header({"shape": "30"}),
    "another type": header({"dtype": "F16"}),
    "a type of nobody's": header({"dtype": "Q4"}),
    "a number that is none": number_of_bias(math.nan),
    "an infinite number": number_of_bias(-math.inf),
    "config is missing": lambda folder: (folder / "preprocessor_config.json").unlink(),
    "another rate": lambda folder: write_json(
        folder / "preprocessor_config.json", {"sampling_rate": 8000}
    ),
    "a folder": lambda folder: (
        (folder / "model.safetensors").rename(folder / "x").with_name("model.safetensors").mkdir()
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_weights_are_refused(copied: Path, name: str) -> None:
    DAMAGES[name](copied)
    with pytest.raises(ModelDamaged):
        read_wav2vec2(copied)


def test_link_out_of_the_folder_is_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").rename(tmp_path / "elsewhere")
    (copied / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelDamaged, match="out of the model's folder"):
        read_wav2vec2(copied)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"[PAD]": 0, "|": 1, "a": 3}, "no symbol for the id 2"),
        ({"[PAD]": 0, "|": 1, "a": 2, "b": 2}, "two symbols"),
        ({"[PAD]": 0, "|": 1, "a": "2"}, "no id"),
        ({"eng": {"a": 0}}, "several languages"),
        ({"|": 0, "[PAD]": 1, "a": 2}, "padding token"),
    ],
)
def test_vocabulary_with_holes_is_refused(copied: Path, said: object, why: str) -> None:
    write_json(copied / "vocab.json", said)
    with pytest.raises(ModelDamaged, match=why):
        Alphabet.read(copied, 3, 0)


def test_bfloat16_is_read(tmp_path: Path) -> None:
    header = {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + struct.pack("<HH", 0x3F80, 0xC020)
    (tmp_path / "x.safetensors").write_bytes(data)
    assert read_safetensors(tmp_path / "x.safetensors")["x"].tolist() == [1.0, -2.5]


def test_other_engines_are_refused_with_advice(whole: Path) -> None:
    choice = engines.Choice("ctranslate2", "cpu", "int8", 1, "there is no CUDA device")
    with pytest.raises(EngineMissing) as caught:
        engines.load_ctc(whole, choice)
    assert "openvino" in caught.value.do


def test_precision_is_a_setting(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = engines.choose("openvino")
    usual = engines.load_ctc(whole, choice).precision
    assert usual in ("float32", "bfloat16")
    monkeypatch.setenv("STENO_CTC_PRECISION", "int8")
    settings.cache_clear()
    try:
        assert engines.load_ctc(whole, choice).precision == "int8"
    finally:
        monkeypatch.undo()
        settings.cache_clear()
