"""`steno models export`, and models in other formats as `--model`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from commands import Steno
from stenopool.errors import (
    ModelDamaged,
    ModelNotPulled,
    OutputUnwritable,
    UnknownName,
    UnsupportedOption,
)
from stenopool.models import LocalModel, Store, opened
from stenopool.models.export import TARGETS, export
from stenopool.models.formats.ctranslate2_writer import write_ctranslate2
from stenopool.models.formats.reading import read_whisper
from stenopool.settings import settings
from whisper_models import assert_same, tiny

PLAIN = ("transformers", "openai", "ggml", "ctranslate2")  # that need no other package


@pytest.fixture
def model(tmp_path: Path) -> LocalModel:
    folder = tmp_path / "source"
    folder.mkdir()
    write_ctranslate2(tiny(), folder)
    return Store(tmp_path / "store").resolve(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rewritten models are kept."""
    monkeypatch.setattr(settings(), "compiled_dir", tmp_path / "compiled")
    return tmp_path / "compiled" / "models"


@pytest.mark.parametrize("to", PLAIN)
def test_export_is_a_whole_folder_with_a_card(model: LocalModel, to: str, tmp_path: Path) -> None:
    names = export(model, to, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert_same(read_whisper(tmp_path / "out"), tiny())
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for told in (f"`{model.sha256}`", f"`{to}`", "`source`", "`float16`", "licence", "```"):
        assert told in card
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert not list(tmp_path.glob(".partial-*"))


def test_card_of_a_catalogue_model_tells_its_licence(models_dir: Path, tmp_path: Path) -> None:
    export(Store(models_dir).resolve("tiny.en"), "transformers", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| licence | MIT |" in card
    assert "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a" in card


@pytest.mark.parametrize(("to", "name"), [("openai", "own.pt"), ("ggml", "ggml-own.bin")])
def test_export_to_a_file_lays_the_card_beside_it(
    model: LocalModel, to: str, name: str, tmp_path: Path
) -> None:
    out = tmp_path / "files"
    assert export(model, to, out / name) == [f"{name}.md", name]
    assert {path.name for path in out.iterdir()} == {name, f"{name}.md"}


@pytest.mark.parametrize(
    ("to", "precision"),
    [("onnx", "q5_0"), ("ggml", "int8"), ("openai", "int8"), ("transformers", "q8_0")],
)
def test_precision_that_a_format_lacks_is_refused(
    model: LocalModel, to: str, precision: str, tmp_path: Path
) -> None:
    with pytest.raises(UnknownName, match=f"`{to}` has no precision") as caught:
        export(model, to, tmp_path / "out", precision)
    assert TARGETS[to].precisions[0] in caught.value.do
    assert not (tmp_path / "out").exists()


def test_unknown_format_is_refused(model: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="keras") as caught:
        export(model, "keras", tmp_path / "out")
    assert "ctranslate2" in caught.value.do


def test_other_kinds_of_models_are_refused(models_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOption, match="silero-vad"):
        export(Store(models_dir).resolve("silero-vad"), "openai", tmp_path / "out")


def test_what_is_there_is_not_written_over(model: LocalModel, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputUnwritable, match="there already"):
        export(model, "openai", tmp_path / "out")
    assert not (tmp_path / "nowhere").exists()


def test_export_that_fails_leaves_nothing(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stenopool.models.export.export_card", fails)
    with pytest.raises(OutputUnwritable.__base__, match="No space left"):  # type: ignore[arg-type]
        export(model, "ggml", tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


# --- models in other formats as a user's model ------------------------------------------------


@pytest.mark.parametrize("to", ["transformers", "openai", "ggml"])
def test_exported_folder_is_a_model(
    model: LocalModel, to: str, tmp_path: Path, cache: Path
) -> None:
    export(model, to, tmp_path / "own model")
    found = Store(tmp_path / "store").resolve(tmp_path / "own model")
    assert found.name == "own model"
    assert found.kind == "whisper"
    assert found.weights.read_bytes() == model.weights.read_bytes()
    assert found.folder.parent == cache
    assert Store(tmp_path / "store").resolve(str(tmp_path / "own model")) == found


@pytest.mark.parametrize(("to", "name"), [("openai", "own.en.pt"), ("ggml", "ggml-own.bin")])
def test_file_is_a_model_by_its_path_and_by_its_name(
    model: LocalModel, to: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(model, to, tmp_path / name)
    (tmp_path / "tokenizer.json").write_bytes(tiny().tokenizer)
    found = Store(tmp_path / "store").resolve(tmp_path / name)
    assert found.name == Path(name).stem
    assert_same_weights(found, model)
    monkeypatch.chdir(tmp_path)
    assert Store(tmp_path / "store").resolve(name) == found


def assert_same_weights(found: LocalModel, wanted: LocalModel) -> None:
    assert found.weights.read_bytes() == wanted.weights.read_bytes()


def test_model_is_rewritten_once_and_again_when_it_changes(
    model: LocalModel, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(model, "transformers", tmp_path / "own")
    first = Store(tmp_path).resolve(tmp_path / "own")
    monkeypatch.setattr(opened, "_rewrite", lambda *_: pytest.fail("it is there"))
    assert Store(tmp_path).resolve(tmp_path / "own") == first
    monkeypatch.undo()
    monkeypatch.setattr(settings(), "compiled_dir", cache.parent)
    said = json.loads((tmp_path / "own" / "generation_config.json").read_bytes())
    said["suppress_tokens"] = [7]
    (tmp_path / "own" / "generation_config.json").write_text(json.dumps(said), encoding="utf-8")
    second = Store(tmp_path).resolve(tmp_path / "own")
    assert second.sha256 != first.sha256
    assert read_whisper(second.folder).weights.generation.suppress == (7,)


def test_damaged_model_of_another_format_is_refused_and_nothing_stays(
    model: LocalModel, tmp_path: Path, cache: Path
) -> None:
    export(model, "ggml", tmp_path / "own.bin")
    whole = (tmp_path / "own.bin").read_bytes()
    (tmp_path / "own.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelDamaged, match="cut off"):
        Store(tmp_path).resolve(tmp_path / "own.bin")
    assert not cache.exists() or not list(cache.iterdir())


def test_unused_and_half_written_models_are_swept(
    model: LocalModel, tmp_path: Path, cache: Path
) -> None:
    old, fresh, used = cache / ".partial-old", cache / ".partial-fresh", cache / "unused"
    for folder, days in ((old, 2), (fresh, 0), (used, 31)):
        folder.mkdir(parents=True)
        then = folder.stat().st_mtime - days * 86_400
        os.utime(folder, (then, then))
    export(model, "transformers", tmp_path / "own")
    found = Store(tmp_path).resolve(tmp_path / "own")
    assert sorted(cache.iterdir()) == sorted([fresh, found.folder])


def test_quantised_model_is_kept_in_float16(model: LocalModel, tmp_path: Path) -> None:
    export(model, "ggml", tmp_path / "own.bin", "q5_0")
    found = Store(tmp_path).resolve(tmp_path / "own.bin")
    assert read_whisper(found.folder).precision == "float16"


@pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json"])
def test_link_out_of_a_folder_of_ctranslate2_is_refused(
    model: LocalModel, name: str, tmp_path: Path
) -> None:
    (model.folder / name).rename(tmp_path / "elsewhere")
    (model.folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelDamaged, match="leads out"):
        Store(tmp_path).resolve(model.folder)


def test_other_files_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "talk.bin").write_bytes(b"RIFF")
    with pytest.raises(ModelNotPulled):
        Store(tmp_path).resolve(tmp_path / "talk.bin")


# --- the command ------------------------------------------------------------------------------


def test_command_exports_what_transcribe_can_open(
    steno: Steno, speech_wav: Path, tmp_path: Path
) -> None:
    done = steno(
        *("models", "export", "tiny.en", "--to", "ggml", "--precision", "q8_0"),
        *("--output", tmp_path / "ggml-tiny.en.bin"),
    )
    assert (done.status, done.stdout) == (0, b"")
    assert "ggml-tiny.en.bin" in done.stderr
    settings = {"STENO_COMPILED_DIR": str(tmp_path / "compiled")}
    file = tmp_path / "ggml-tiny.en.bin"
    heard = steno("transcribe", speech_wav, "--model", file, settings=settings)
    assert heard.status == 0, heard.stderr
    assert "best of times" in heard.text


def test_command_refuses_a_second_time(steno: Steno, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = steno("models", "export", "tiny.en", "--to", "openai", "--output", tmp_path / "out")
    assert done.status == 6
    assert "there already" in done.stderr
