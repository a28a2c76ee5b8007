"""The store: what it hands out is whole, what it cannot hand out it names, nothing half-done stays.

The models are small and the wheels are built here; pip is replaced where it would only cost time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from stenopool.errors import (
    ModelDamaged,
    ModelNotPulled,
    ModelUnavailable,
    OutputUnwritable,
    StorageFull,
    UnknownName,
)
from stenopool.models import catalogue, sources, store, workspace
from stenopool.models.catalogue import (
    CATALOGUE,
    FileSpec,
    HubSource,
    ModelEntry,
    WheelPart,
    WheelSource,
    shown,
)
from stenopool.models.local import LocalModel
from stenopool.models.store import Store
from stenopool.settings import settings

FILES = {
    "model.bin": bytes(range(256)) * 5000,
    "config.json": b'{"a": 1}',
    "tokenizer.json": b"{}",
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wheel_source(requirement: str) -> WheelSource:
    parts = {name: (WheelPart(requirement, f"data/{name}"),) for name in FILES}
    return WheelSource(MappingProxyType(parts))


PINNED = replace(
    CATALOGUE["base"],
    name="pinned",
    files=tuple(FileSpec(name, sha256(content)) for name, content in FILES.items()),
    sources=(wheel_source("first==1.0"), wheel_source("second==1.0")),
)
TRUSTED = replace(
    PINNED,
    name="trusted",
    files=tuple(FileSpec(name) for name in FILES),
    sources=(HubSource("someone/some-model", "main"),),
)
MODELS = MappingProxyType({model.name: model for model in (PINNED, TRUSTED)})


def write_wheel(index: Path, name: str, **changed: bytes) -> None:
    """A wheel with the files of a model, some of them with other content."""
    path = index / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        for member, content in FILES.items():
            archive.writestr(f"data/{member}", changed.get(member.partition(".")[0], content))


def publish(where: Path, **changed: bytes) -> None:
    """Put other content on the stand-in for the Hub."""
    for name, content in FILES.items():
        (where / name).write_bytes(changed.get(name.partition(".")[0], content))


@pytest.fixture(autouse=True)
def small_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "CATALOGUE", MODELS)
    monkeypatch.setattr(store, "CATALOGUE", MODELS)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package index: wheels in a folder."""
    folder = tmp_path / "index"
    folder.mkdir()

    def take(requirement: str, _folder: Path) -> Path:
        wheel = folder / f"{requirement.replace('==', '-')}-py3-none-any.whl"
        if not wheel.exists():
            raise ModelUnavailable(f"no wheel {requirement}", do="Build it")
        return wheel

    monkeypatch.setattr(sources, "_download", take)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub: files in a folder."""
    folder = tmp_path / "hub"
    folder.mkdir()

    def take(_source: HubSource, name: str, tmp: Path) -> Path:
        return Path(shutil.copy(folder / name, tmp))

    monkeypatch.setattr(sources, "_download_hub", take)
    publish(folder)
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def pulled(models: Store, index: Path) -> LocalModel:
    write_wheel(index, "first")
    return models.resolve("pinned")


def flip_bit(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Pulling


def test_resolving_pulls_what_is_absent(pulled: LocalModel, models: Store) -> None:
    assert pulled == LocalModel(
        "pinned", models.root / "pinned", sha256(FILES["model.bin"]), PINNED
    )
    assert pulled.weights == models.root / "pinned" / "model.bin"
    assert {name: (pulled.folder / name).read_bytes() for name in FILES} == FILES
    assert models.pulled() == ["pinned"]
    assert [path.name for path in models.root.iterdir()] == ["pinned"]


def test_pulled_model_needs_no_source(pulled: LocalModel, models: Store, index: Path) -> None:
    shutil.rmtree(index)
    assert models.resolve("pinned") == pulled
    assert models.pull("pinned") == pulled
    assert Store(models.root, offline=True).resolve("pinned") == pulled


def test_alias_shares_the_folder_of_its_model(
    pulled: LocalModel, models: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "ALIASES", {"nickname": "pinned"})
    assert models.resolve("nickname") == pulled


def test_next_source_is_tried_and_the_record_says_which(models: Store, index: Path) -> None:
    write_wheel(index, "second")
    folder = models.pull("pinned").folder
    assert "second==1.0" in json.loads((folder / "manifest.json").read_text())["source"]


def test_first_source_wins(models: Store, index: Path) -> None:
    write_wheel(index, "first")
    write_wheel(index, "second", model=b"never looked at")
    models.pull("pinned")


def test_failure_of_all_sources_names_each_and_leaves_nothing(models: Store, index: Path) -> None:
    (index / "first-1.0-py3-none-any.whl").write_bytes(b"not a wheel")
    with pytest.raises(ModelUnavailable, match=r"first==1\.0.* is not a wheel.*second==1\.0"):
        models.pull("pinned")
    assert list(models.root.iterdir()) == []


def test_wrong_bytes_from_a_source_are_damage_at_once(models: Store, index: Path) -> None:
    write_wheel(index, "first", model=FILES["model.bin"][:-1])
    write_wheel(index, "second")
    with pytest.raises(ModelDamaged, match=r"`model\.bin`") as caught:
        models.pull("pinned")
    assert sha256(FILES["model.bin"])[:12] in caught.value.what
    assert sha256(FILES["model.bin"][:-1])[:12] in caught.value.what
    assert "first==1.0" in caught.value.do
    assert list(models.root.iterdir()) == []


def test_progress_is_told(models: Store, index: Path) -> None:
    write_wheel(index, "first")
    told: list[tuple[str, int, int | None]] = []
    models.resolve("pinned", report=lambda *news: told.append(news))
    size = len(FILES["model.bin"])
    assert ("model.bin", size, size) in told


def test_interrupted_pull_leaves_nothing(models: Store, index: Path) -> None:
    write_wheel(index, "first")

    def interrupt(what: str, done: int, _total: int | None) -> None:
        if what == "model.bin" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models.pull("pinned", report=interrupt)
    assert list(models.root.iterdir()) == []


# Pulling by force


def test_force_replaces_what_is_damaged(pulled: LocalModel, models: Store) -> None:
    flip_bit(pulled.weights)
    assert models.pull("pinned", force=True) == pulled
    assert [path.name for path in models.root.iterdir()] == ["pinned"]


def test_force_pulls_what_was_never_here(models: Store, index: Path) -> None:
    write_wheel(index, "first")
    assert models.pull("pinned", force=True) == models.verify("pinned")


@pytest.mark.parametrize(
    "break_source", [shutil.rmtree, lambda index: write_wheel(index, "first", model=b"x")]
)
def test_failed_forced_pull_keeps_the_old(
    pulled: LocalModel, models: Store, index: Path, break_source: Callable[[Path], None]
) -> None:
    before = contents(pulled.folder)
    break_source(index)
    with pytest.raises((ModelUnavailable, ModelDamaged)):
        models.pull("pinned", force=True)
    assert contents(pulled.folder) == before
    assert models.verify("pinned") == pulled


def test_old_model_comes_back_when_the_new_one_cannot_take_its_place(
    pulled: LocalModel, models: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.replace

    def refuse_the_new(path: Path, target: Path) -> Path:
        if path.name == "model":
            raise PermissionError(1, "Operation not permitted")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", refuse_the_new)
    with pytest.raises(OutputUnwritable, match="Operation not permitted"):
        models.pull("pinned", force=True)
    assert models.verify("pinned") == pulled


# Damage


def test_flipped_bit_is_refused_by_name_and_never_mended_silently(
    pulled: LocalModel, models: Store
) -> None:
    flip_bit(pulled.weights, 12345)
    damaged = pulled.weights.read_bytes()
    for attempt in (models.resolve, models.verify, models.pull):
        with pytest.raises(ModelDamaged, match=r"`model\.bin`") as caught:
            attempt("pinned")
        assert sha256(FILES["model.bin"])[:12] in caught.value.what
        assert sha256(damaged)[:12] in caught.value.what
        assert "steno models pull pinned --force" in caught.value.do
    assert pulled.weights.read_bytes() == damaged


def damage_by_truncation(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damage_by_emptying(path: Path) -> None:
    path.write_bytes(b"")


def damage_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def damage_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def damage_by_swap(path: Path) -> None:
    other = path.parent / ("config.json" if path.name != "config.json" else "tokenizer.json")
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        *(flip_bit, damage_by_truncation, damage_by_emptying, Path.unlink),
        *(damage_by_folder, damage_by_pipe, damage_by_swap),
    ],
)
def test_any_damage_to_any_file_is_refused_by_name(
    pulled: LocalModel, models: Store, name: str, damage: Callable[[Path], None]
) -> None:
    damage(pulled.folder / name)
    with pytest.raises(ModelDamaged) as caught:
        models.resolve("pinned")
    assert name in caught.value.what


def test_file_in_the_place_of_a_model_is_damage(models: Store) -> None:
    models.root.mkdir()
    (models.root / "pinned").write_text("not a folder")
    with pytest.raises(ModelDamaged, match=r"model\.bin` is missing"):
        models.resolve("pinned")


# Trust on first use


def test_first_pull_is_trusted_and_later_bytes_are_held_to_it(models: Store, hub: Path) -> None:
    local = models.resolve("trusted")
    recorded = json.loads((local.folder / "manifest.json").read_text())
    assert recorded["files"] == {name: sha256(content) for name, content in FILES.items()}
    assert "someone/some-model@main" in recorded["source"]
    assert models.resolve("trusted") == local
    flip_bit(local.folder / "tokenizer.json")
    with pytest.raises(ModelDamaged, match=r"`tokenizer\.json`"):
        models.resolve("trusted")


def test_force_trusts_what_is_published_now(models: Store, hub: Path) -> None:
    models.resolve("trusted")
    publish(hub, model=b"retrained")
    assert models.pull("trusted", force=True).sha256 == sha256(b"retrained")
    assert models.resolve("trusted").sha256 == sha256(b"retrained")


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        b"",
        b"[]",
        b"{}",
        b'{"files": 3}',
        b'{"files": {"model.bin": "00"}}',
        b"\xff",
        b"[" * 10**5,
    ],
)
def test_without_a_sound_record_nothing_is_trusted(
    models: Store, hub: Path, manifest: bytes | None
) -> None:
    record = models.resolve("trusted").folder / "manifest.json"
    record.unlink()
    if manifest is not None:
        record.write_bytes(manifest)
    with pytest.raises(ModelDamaged, match=r"manifest\.json"):
        models.resolve("trusted")


def test_record_cannot_overrule_the_catalogue(pulled: LocalModel, models: Store) -> None:
    flip_bit(pulled.weights)
    record = pulled.folder / "manifest.json"
    forged = json.loads(record.read_text())
    forged["files"]["model.bin"] = sha256(pulled.weights.read_bytes())
    record.write_text(json.dumps(forged))
    with pytest.raises(ModelDamaged, match=r"`model\.bin`"):
        models.resolve("pinned")


def test_record_cannot_overrule_a_hash_of_a_model_that_is_trusted_otherwise(
    models: Store, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = models.resolve("trusted")
    half = replace(TRUSTED, files=(PINNED.files[0], *TRUSTED.files[1:]))
    monkeypatch.setattr(catalogue, "CATALOGUE", {"trusted": half})
    assert models.resolve("trusted").sha256 == local.sha256
    flip_bit(local.weights)
    record = local.folder / "manifest.json"
    forged = json.loads(record.read_text())
    forged["files"]["model.bin"] = sha256(local.weights.read_bytes())
    record.write_text(json.dumps(forged))
    with pytest.raises(ModelDamaged, match=r"`model\.bin`"):
        models.resolve("trusted")


# Offline, names, removal


def test_offline_store_does_not_pull(models: Store, index: Path) -> None:
    write_wheel(index, "first")
    with pytest.raises(ModelNotPulled, match="`pinned` is not on this machine, and STENO_OFFLINE"):
        Store(models.root, offline=True).resolve("pinned")
    assert not models.root.exists()


def test_environment_forbids_pulling(
    pulled: LocalModel, models: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STENO_OFFLINE", "1")
    settings.cache_clear()
    try:
        with pytest.raises(ModelNotPulled, match="`pinned` cannot be pulled again"):
            models.pull("pinned", force=True)
        with pytest.raises(ModelNotPulled, match="`trusted` is not on this machine"):
            models.resolve("trusted")
        assert models.resolve("pinned") == pulled
    finally:
        settings.cache_clear()


HOSTILE = [
    "../pinned",
    "..",
    ".",
    "",
    "pinned/../pinned",
    "/etc",
    "pin\0ned",
    "x" * 5000,
    "a/" * 5000,
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_name_never_reaches_the_file_system(
    models: Store, index: Path, tmp_path: Path, name: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    for attempt in (models.pull, models.verify, models.remove):
        with pytest.raises(UnknownName):
            attempt(name)
    with pytest.raises((UnknownName, ModelNotPulled, ModelDamaged)):
        models.resolve(name)
    assert sorted(tmp_path.rglob("*")) == before


def test_misspelt_name_is_not_taken_for_a_path(models: Store) -> None:
    with pytest.raises(UnknownName) as caught:
        models.resolve("pined")
    assert "`pinned`" in caught.value.do


def test_removed_model_is_gone(pulled: LocalModel, models: Store) -> None:
    models.remove("pinned")
    assert models.pulled() == []
    assert list(models.root.iterdir()) == []
    with pytest.raises(ModelNotPulled):
        models.remove("pinned")
    with pytest.raises(ModelNotPulled, match="`pinned`"):
        models.verify("pinned")


def test_removing_a_linked_model_spares_what_it_links_to(
    pulled: LocalModel, models: Store, tmp_path: Path
) -> None:
    elsewhere = pulled.folder.rename(tmp_path / "elsewhere")
    pulled.folder.symlink_to(elsewhere)
    assert models.resolve("pinned").sha256 == pulled.sha256
    models.remove("pinned")
    assert (elsewhere / "model.bin").exists()


# A user's own folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "my model"
    folder.mkdir()
    publish(folder)
    return folder


@pytest.mark.parametrize("as_given", [Path, str])
def test_own_folder_is_used_as_it_is(
    models: Store, own: Path, as_given: Callable[[Path], str | Path]
) -> None:
    local = models.resolve(as_given(own))
    assert local == LocalModel("my model", own, sha256(FILES["model.bin"]), None)
    assert local.weights == own / "model.bin"
    assert not models.root.exists()


def test_own_folder_is_found_by_its_bare_name(
    models: Store, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent)
    assert models.resolve("my model").sha256 == sha256(FILES["model.bin"])


def test_catalogue_wins_over_a_folder_that_happens_to_have_its_name(
    pulled: LocalModel, models: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pinned").mkdir()
    monkeypatch.chdir(tmp_path)
    assert models.resolve("pinned") == pulled
    for path in ("./pinned", Path("pinned")):
        with pytest.raises(ModelDamaged, match=r"model\.bin` is missing"):
            models.resolve(path)


@pytest.mark.parametrize("name", FILES)
def test_own_folder_without_a_file_is_refused_by_name(models: Store, own: Path, name: str) -> None:
    (own / name).unlink()
    with pytest.raises(ModelDamaged, match=f"{name}` is missing"):
        models.resolve(own)


def test_file_is_not_a_model_folder(models: Store, own: Path) -> None:
    file = own / "model.bin"
    with pytest.raises(ModelNotPulled, match=f"no model folder `{re.escape(shown(str(file)))}`"):
        models.resolve(file)


# A store that cannot be written


def test_store_below_a_file_is_unwritable(tmp_path: Path, index: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputUnwritable, match="Not a directory") as caught:
        Store(tmp_path / "file" / "store").pull("pinned")
    assert "STENO_MODELS_DIR" in caught.value.do


def test_full_disk_is_named_and_nothing_stays(
    models: Store, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(index, "first")
    take = sources._download

    def fill_the_disk(requirement: str, folder: Path) -> Path:
        (folder.parent.parent / "model" / "model.bin").symlink_to("/dev/full")
        return take(requirement, folder)

    monkeypatch.setattr(sources, "_download", fill_the_disk)
    with pytest.raises(StorageFull, match="no space is left"):
        models.pull("pinned")
    assert list(models.root.iterdir()) == []


# Several at once, and the death of one


def test_threads_that_pull_at_once_all_succeed(models: Store, index: Path) -> None:
    write_wheel(index, "first")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(models.resolve, ["pinned"] * 16))
    assert found == [models.verify("pinned")] * 16
    assert [path.name for path in models.root.iterdir()] == ["pinned"]


def test_threads_that_pull_by_force_at_once_all_succeed(pulled: LocalModel, models: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: models.pull("pinned", force=True), range(12)))
    assert found == [pulled] * 12
    assert [path.name for path in models.root.iterdir()] == ["pinned"]


PULL = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_models_store as here
from stenopool.models import catalogue, store
catalogue.CATALOGUE = store.CATALOGUE = here.MODELS
def report(what, done, total):
    if done and {hang}:
        print("half-way", flush=True)
        time.sleep(600)
print(store.Store(Path({root!r})).resolve("pinned", report=report).sha256)
"""


def start_pull(models: Store, index: Path, *, hang: bool = False) -> subprocess.Popen[str]:
    """A process that pulls with the real pip, from nothing but our folder."""
    code = PULL.format(tests=str(Path(__file__).parent), root=str(models.root), hang=hang)
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_processes_that_pull_at_once_all_succeed(models: Store, index: Path) -> None:
    write_wheel(index, "first")
    processes = [start_pull(models, index) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert answers == [sha256(FILES["model.bin"])] * 2
    assert [path.name for path in models.root.iterdir()] == ["pinned"]


def test_killed_pull_is_no_model_and_is_swept_up_later(models: Store, index: Path) -> None:
    write_wheel(index, "first")
    with start_pull(models, index, hang=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half-way\n"
        process.kill()
    (left,) = models.root.iterdir()
    assert models.pulled() == []
    models.pull("pinned")
    assert left.exists()  # it could belong to a pull that is still alive
    long_ago = time.time() - 2 * workspace.STALE_SECONDS
    for path in (left, *left.rglob("*")):
        os.utime(path, (long_ago, long_ago))
    models.pull("pinned", force=True)
    assert [path.name for path in models.root.iterdir()] == ["pinned"]


# Real weights


def test_real_weights_with_one_flipped_bit_are_refused(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "CATALOGUE", CATALOGUE)
    monkeypatch.setattr(store, "CATALOGUE", CATALOGUE)
    shutil.copytree(models_dir, tmp_path / "models", ignore=shutil.ignore_patterns("base"))
    models = Store(tmp_path / "models", offline=True)
    assert models.resolve("silero-vad").weights.name == "silero_vad.onnx"
    local = models.resolve("tiny.en")
    entry: ModelEntry | None = local.entry
    assert entry is not None
    assert local.sha256 == entry.files[0].sha256
    flip_bit(local.weights, 40_000_000)
    with pytest.raises(ModelDamaged, match=r"`model\.bin`"):
        models.resolve("tiny.en")
