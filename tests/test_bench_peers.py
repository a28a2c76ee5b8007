"""Peers: how they are asked for, what weights they get, and what they hear where installed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from commands import words
from stenopool.errors import EngineFailed, EngineMissing, ModelDamaged, UnknownName, UsageError
from stenopool.evaluation import peers
from stenopool.evaluation.peers import PEERS, Order, convert
from stenopool.evaluation.systems import peer
from stenopool.files import PARTIAL
from stenopool.models import LocalModel, Store


def test_peer_has_the_defaults_of_its_project() -> None:
    order = Order.of("faster-whisper-batched")
    assert order.settings == {"precision": "int8", "beam": 5, "batch": 8}
    assert order.form == "ctranslate2"


def test_settings_follow_the_name() -> None:
    order = Order.of("faster-whisper-batched:beam=1,batch=16,precision=float32")
    assert order.settings == {"precision": "float32", "beam": 1, "batch": 16}
    assert Order.of("whisper.cpp:precision=int8").form == "ggml-int8"


@pytest.mark.parametrize(
    "text",
    [
        "whisper.cpp:beam=0",
        "whisper.cpp:beam=33",
        "whisper.cpp:beam=-1",
        "whisper.cpp:beam=²",
        "whisper.cpp:beam=",
        "whisper.cpp:beam",
        "whisper.cpp:precision=int4",
        "transformers:batch=65",
    ],
)
def test_value_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be"):
        Order.of(text)


@pytest.mark.parametrize("text", ["", "vosk", "openvino-genai:beam=2", "whisper.cpp:batch=2"])
def test_unknown_name_is_refused(text: str) -> None:
    with pytest.raises(UnknownName):
        Order.of(text)


@pytest.mark.parametrize("name", PEERS)
def test_every_format_can_be_written(name: str) -> None:
    assert set(PEERS[name].forms.values()) <= {convert.AS_IT_IS, *convert.FORMS}


@pytest.mark.parametrize("name", PEERS)
def test_missing_peer_says_what_to_install(
    name: str, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda module: None)
    with pytest.raises(EngineMissing, match=name) as caught, peer(name, models_dir / "tiny.en"):
        pass
    assert "pip install 'stenopool[bench]'" in caught.value.do


@pytest.fixture
def model(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalModel:
    monkeypatch.setattr(convert, "user_cache_path", lambda name: tmp_path / name)
    return Store(models_dir).resolve("tiny.en")


def kept() -> list[str]:
    return sorted(path.name for path in convert.cache().iterdir())


def test_model_is_converted_once(model: LocalModel) -> None:
    calls = []

    def fake(source: Path, target: Path) -> None:
        calls.append(source)
        (target / "model.bin").write_bytes(b"converted")

    first = convert.converted(model, "openai", fake)
    assert convert.converted(model, "openai", fake) == first
    assert calls == [model.folder]
    assert (first / "model.bin").read_bytes() == b"converted"
    assert kept() == [first.name]


def test_formats_have_folders_of_their_own(model: LocalModel) -> None:
    folders = {convert.converted(model, form, lambda *_: None) for form in convert.FORMS}
    assert len(folders) == len(convert.FORMS)


def test_format_that_we_have_is_not_converted(model: LocalModel) -> None:
    def never(source: Path, target: Path) -> None:
        raise AssertionError

    assert convert.converted(model, convert.AS_IT_IS, never) == model.folder


def test_failed_conversion_leaves_nothing(model: LocalModel) -> None:
    def fails(source: Path, target: Path) -> None:
        (target / "half").write_bytes(b"half")
        raise ModelDamaged("cut off", do="Pull it")

    with pytest.raises(ModelDamaged):
        convert.converted(model, "openai", fails)
    assert kept() == []


def test_conversion_that_was_faster_elsewhere_is_used(model: LocalModel) -> None:
    def fast(source: Path, target: Path) -> None:
        (target / "model.bin").write_bytes(b"theirs")

    def slow(source: Path, target: Path) -> None:
        (target / "model.bin").write_bytes(b"ours")
        convert.converted(model, "openai", fast)

    found = convert.converted(model, "openai", slow)
    assert (found / "model.bin").read_bytes() == b"theirs"
    assert kept() == [found.name]


def test_remains_of_a_killed_conversion_are_swept(model: LocalModel) -> None:
    old, fresh = (convert.cache() / f"{PARTIAL}{name}" for name in ("old", "fresh"))
    for folder in (old, fresh):
        folder.mkdir(parents=True)
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    convert.converted(model, "openai", lambda *_: None)
    assert not old.exists()
    assert fresh.exists()


def test_conversion_is_made_in_a_process_of_its_own(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(Order, "check", lambda self: None)
    one = peer("whisper.cpp", models_dir / "tiny.en", threads=1)
    if PEERS["whisper.cpp"].installed:
        with one:
            pass
    else:
        with pytest.raises(EngineFailed, match="pywhispercpp"), one:
            pass
    (folder,) = convert.cache().iterdir()
    with (folder / "model.bin").open("rb") as file:
        assert file.read(4) == b"lmgg"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *PEERS,
        "faster-whisper-batched:beam=1,batch=16",
        "whisper.cpp:precision=int8,beam=1",
        "openvino-genai:precision=int8",
        "transformers:precision=bfloat16,beam=2",
        "openai-whisper:beam=1",
    ],
)
def test_peer_hears_what_is_said(name: str, models_dir: Path, speech_wav: Path) -> None:
    try:
        Order.of(name).check()
    except EngineMissing as error:
        pytest.skip(error.what)
    with peer(name, models_dir / "tiny.en", threads=1) as one:
        heard, missing, again = one.transcribe([speech_wav, speech_wav.parent / "no", speech_wav])
        figures = one.figures()
    assert words(heard.text)[:6] == ["it", "was", "the", "best", "of", "times"]
    assert words(heard.text).count("was") >= 9  # to the end of the recording, beyond one window
    assert words(again.text)[:6] == words(heard.text)[:6]  # whisper.cpp's beam draws at random
    assert missing.error
    assert missing.text == ""
    assert figures.versions
