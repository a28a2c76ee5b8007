"""Every format that is written can be read, and loses no bit where it keeps floating point."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stenopool.errors import ModelDamaged, UnsupportedOption
from stenopool.models.formats import reading
from stenopool.models.formats.ctranslate2_writer import write_ctranslate2
from stenopool.models.formats.ggml import PRECISIONS, Precision, write_ggml
from stenopool.models.formats.model import Whisper
from stenopool.models.formats.non_speech import suppressed
from stenopool.models.formats.openai import openai_name, transformers_name, write_openai
from stenopool.models.formats.reading import read_whisper
from stenopool.models.formats.tokenizer import special_ids, tokenizer_of_words
from stenopool.models.formats.transformers import write_documents, write_transformers
from stenopool.models.weights import LazyTensors, Stored, WhisperWeights, read_weights
from stenopool.settings import settings
from whisper_models import ENGLISH, MULTILINGUAL, assert_same, tiny


def ctranslate2(whisper: Whisper, folder: Path) -> Path:
    write_ctranslate2(whisper, folder, whisper.precision)
    return folder


def transformers(whisper: Whisper, folder: Path) -> Path:
    write_transformers(whisper, folder)
    return folder


def openai(whisper: Whisper, folder: Path) -> Path:
    write_documents(whisper, folder)
    write_openai(whisper, folder / "model.pt")
    return folder


def ggml(whisper: Whisper, folder: Path) -> Path:
    write_documents(whisper, folder)
    write_ggml(whisper, folder / "ggml-model.bin", Precision[whisper.precision.upper()])
    return folder


FORMATS: list[Callable[[Whisper, Path], Path]] = [ctranslate2, transformers, openai, ggml]


@pytest.fixture(scope="module", params=["float16", "float32"])
def model(request: pytest.FixtureRequest) -> Whisper:
    return tiny(request.param)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_written_is_read(
    form: Callable[[Whisper, Path], Path], model: Whisper, tmp_path: Path
) -> None:
    assert_same(read_whisper(form(model, tmp_path)), model)


@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("first", FORMATS)
def test_there_and_back_loses_no_bit(
    first: Callable[[Whisper, Path], Path],
    second: Callable[[Whisper, Path], Path],
    model: Whisper,
    tmp_path: Path,
) -> None:
    folders = [tmp_path / name for name in ("a", "b", "again")]
    for folder in folders:
        folder.mkdir()
    between = read_whisper(second(read_whisper(first(model, folders[0])), folders[1]))
    first(between, folders[2])
    for file in folders[0].iterdir():
        assert (folders[2] / file.name).read_bytes() == file.read_bytes(), file.name


def test_model_that_was_pulled_is_written_byte_for_byte(models_dir: Path, tmp_path: Path) -> None:
    write_ctranslate2(read_whisper(models_dir / "tiny.en"), tmp_path)
    for name in ("model.bin", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (models_dir / "tiny.en" / name).read_bytes()
    words = json.loads((tmp_path / "vocabulary.json").read_text(encoding="utf-8"))
    published = (models_dir / "tiny.en" / "vocabulary.txt").read_text(encoding="utf-8")
    assert words == published.removesuffix("\n").split("\n")


@pytest.mark.parametrize(("precision", "step"), [("q8_0", 1 / 127), ("q5_0", 1 / 16)])
def test_quantised_file_is_near_and_stays_as_it_is(
    precision: str, step: float, tmp_path: Path
) -> None:
    model, first, again = tiny("float32"), tmp_path / "a.bin", tmp_path / "b.bin"
    write_ggml(model, first, PRECISIONS[precision])
    found = read_whisper(first)
    name = "model.decoder.layers.1.fc1.weight"
    exact = model.weights.tensors[name].reshape(-1, 32)
    error = np.abs(found.weights.tensors[name].reshape(-1, 32) - exact).max(axis=1)
    largest = np.abs(exact).max(axis=1)
    assert np.all(error <= largest * step * 1.01)  # q5_0 has no +16, so it may be a whole step
    assert error.max() > 0
    write_ggml(found, again, PRECISIONS[precision])
    assert again.read_bytes() == first.read_bytes()


def test_int8_of_ctranslate2_is_within_half_a_step(tmp_path: Path) -> None:
    model = tiny("float32")
    write_ctranslate2(model, tmp_path, "int8")
    found = read_whisper(tmp_path)
    for name, exact in model.weights.tensors.items():
        near = found.weights.tensors[name]
        if exact.ndim == 2 and "positions" not in name:
            # What is fused may have a larger scale than its part, never a smaller one.
            assert np.abs(near - exact).max() <= np.abs(exact).max(axis=1).max() / 127 / 2 + 1e-6
            assert not np.array_equal(near, exact)
        else:
            assert np.array_equal(near, exact), name


def test_file_of_words_alone_has_tokenizer_and_suppressed_tokens(
    models_dir: Path, tmp_path: Path
) -> None:
    pulled = read_whisper(models_dir / "tiny.en")
    rebuilt = tokenizer_of_words(pulled.tokens.words, ENGLISH)
    published = json.loads(pulled.tokenizer)["model"]
    assert json.loads(rebuilt)["model"]["merges"] == published["merges"]
    said = suppressed(rebuilt, ENGLISH)
    assert said.suppress == pulled.weights.generation.suppress
    assert said.suppress_first == pulled.weights.generation.suppress_first


def test_ggml_file_alone_is_a_whole_model(tmp_path: Path) -> None:
    model = tiny()
    write_ggml(model, tmp_path / "ggml-any.bin")
    found = read_whisper(tmp_path / "ggml-any.bin")
    assert found.tokenizer == model.tokenizer
    assert found.weights.generation.alignment_heads == ()
    assert 50358 in found.weights.generation.suppress  # a command


def test_checkpoint_alone_takes_the_tokens_of_a_pulled_model(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_openai(tiny(), tmp_path / "tiny.en.pt")
    monkeypatch.setattr(settings(), "models_dir", models_dir)
    found = read_whisper(tmp_path / "tiny.en.pt")
    assert found.tokenizer == (models_dir / "tiny.en" / "tokenizer.json").read_bytes()
    monkeypatch.setattr(settings(), "models_dir", tmp_path)
    with pytest.raises(ModelDamaged, match="51864 tokens") as caught:
        read_whisper(tmp_path / "tiny.en.pt")
    assert "tokenizer.json" in caught.value.do


def test_tokenizer_of_another_model_beside_a_file_is_not_used(tmp_path: Path) -> None:
    model = tiny()
    write_ggml(model, tmp_path / "ggml-any.bin")
    other = json.loads(model.tokenizer)
    other["model"]["vocab"]["ing"] = 9000
    (tmp_path / "tokenizer.json").write_text(json.dumps(other), encoding="utf-8")
    assert read_whisper(tmp_path / "ggml-any.bin").tokenizer == model.tokenizer


def test_shards_are_read_together(tmp_path: Path) -> None:
    from stenopool.models.formats.safetensors import write_safetensors

    model = tiny()
    write_documents(model, tmp_path)
    places: dict[str, str] = {}
    for side in ("encoder", "decoder"):
        mine = {
            name: one for name, one in model.weights.tensors.items() if f"model.{side}." in name
        }
        with (tmp_path / f"{side}.safetensors").open("wb") as file:
            write_safetensors(file, mine)
        places |= dict.fromkeys(mine, f"{side}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    assert_same(read_whisper(tmp_path), model)
    assert len(reading.source_files(tmp_path)) == 6


def test_slow_tokenizer_is_put_together(tmp_path: Path) -> None:
    model = tiny()
    write_transformers(model, tmp_path)
    said = json.loads((tmp_path / "tokenizer.json").read_bytes())["model"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(said["vocab"]), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *said["merges"], ""])
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    assert_same(read_whisper(tmp_path), model)


def test_names_of_openai_lead_back() -> None:
    for name in tiny().weights.tensors:
        assert transformers_name(openai_name(name)) == name


def test_numbers_beyond_float16_are_refused_and_nothing_stays(tmp_path: Path) -> None:
    model = tiny("float32")
    tensors = model.weights.stored()
    name = "model.encoder.layer_norm.bias"
    tensors[name] = Stored.of(np.full(64, 1e6, np.float32))
    large = replace(model, weights=replace(model.weights, tensors=LazyTensors(tensors)))
    with pytest.raises(UnsupportedOption, match=name):
        write_openai(large, tmp_path / "model.pt", "float16")
    assert list(tmp_path.iterdir()) == []


def test_tensors_are_made_when_they_are_asked_for(tmp_path: Path) -> None:
    ctranslate2(tiny(), tmp_path)
    weights: WhisperWeights = read_weights(tmp_path)
    name = "model.encoder.layers.0.self_attn.q_proj.weight"
    first, again = weights.tensors[name], weights.tensors[name]
    assert first is not again
    assert not first.flags.owndata  # a view of the mapped file
    assert not first.flags.writeable


@pytest.mark.parametrize(("vocabulary", "languages"), [(MULTILINGUAL, 99), (51866, 100)])
def test_commands_stand_where_published_models_have_them(vocabulary: int, languages: int) -> None:
    ids = special_ids(vocabulary)
    assert (ids["<|endoftext|>"], ids["<|startoftranscript|>"], ids["<|en|>"]) == (
        50257,
        50258,
        50259,
    )
    assert ids["<|notimestamps|>"] + 1501 == vocabulary - 1
    assert sum(len(name) <= 7 for name in ids) == languages


def test_unknown_vocabulary_needs_its_tokenizer() -> None:
    with pytest.raises(ModelDamaged, match="7 tokens"):
        special_ids(7)
