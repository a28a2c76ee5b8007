"""Registered models: versions that appear whole, names that cannot escape, and the default."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ctc_models import write_model
from stenopool.decoding.options import Options
from stenopool.errors import (
    ModelDamaged,
    OutputUnwritable,
    PromotionRefused,
    StorageFull,
    UnknownName,
    UnsupportedOption,
    UsageError,
)
from stenopool.models import LocalModel, Store
from stenopool.models.card import registered_card
from stenopool.models.export import export
from stenopool.models.facts import facts_of
from stenopool.models.formats.ctranslate2_writer import write_ctranslate2
from stenopool.models.formats.reading import read_whisper
from stenopool.models.formats.transformers import write_transformers
from stenopool.models.promotions import DEMOTED, FILE, PROMOTED, REFUSED
from stenopool.models.registry import Registry, Version
from stenopool.settings import settings
from whisper_models import assert_same, tiny


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where models of other formats are rewritten to."""
    monkeypatch.setattr(settings(), "compiled_dir", tmp_path / "compiled")


@pytest.fixture
def models(tmp_path: Path) -> Store:
    return Store(tmp_path / "models", offline=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in two formats."""
    folder = tmp_path_factory.mktemp("written")
    for name in ("engines", "transformers"):
        (folder / name).mkdir()
    write_ctranslate2(tiny(), folder / "engines")
    write_transformers(tiny(), folder / "transformers", "float16")
    return folder


@pytest.fixture
def source(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written / "engines", tmp_path / "source"))


@pytest.fixture
def trained(written: Path, tmp_path: Path) -> Path:
    """A folder as a distillation leaves it."""
    folder = Path(shutil.copytree(written / "transformers", tmp_path / "student"))
    (folder / "hyperparameters.json").write_text(json.dumps(RECORD), encoding="utf-8")
    lines = [
        {"step": at, "valid": {"wer": wer, "words": 99.0}, "best_step": 40} for at, wer in RATES
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in ({"step": 5, "loss": 2.0}, *lines))
    (folder / "metrics.jsonl").write_text(text + '{"step": 60, "val', encoding="utf-8")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "large").write_bytes(b"\0" * 100)
    return folder


RATES = ((20, 0.5), (40, 0.25), (60, 0.375))
RECORD: dict[str, Any] = {
    "kind": "distil",
    "teacher": {"name": "base", "sha256": "d01c3014"},
    "layers": [0, 5],
    "train": {"source": "/home/anna/secret/kept|.jsonl", "used": 265, "hours": 1.6, "sha256": "ab"},
    "valid": {"source": "valid.jsonl", "used": 22, "hours": 0.1, "listing_sha256": "cd"},
    "licences": {"CC-BY-4.0": 1.6},
    "filter": {
        "bounds": {"max_wer": 0.1},
        "windows": 290,
        "kept": 265,
        "kept_hours": 1.6,
        "dropped": {"wer": {"windows": 25}},
    },
}


def added(models: Store, source: Path | str, name: str = "student", **told: Any) -> Version:
    found = models.resolve(source)
    return models.registry.add(name, found, {**facts_of(found), **told}, registered_card)


def card_of(models: Store, version: Version) -> str:
    return (models.registry.folder(version) / "README.md").read_text(encoding="utf-8")


# --- versions -----------------------------------------------------------------------------------


def test_name_is_that_of_the_newest_version(models: Store, source: Path) -> None:
    first = added(models, source)
    write_ctranslate2(tiny("float32"), source, "float32")
    assert (first, added(models, source)) == (Version("student", 1), Version("student", 2))
    assert models.resolve("student").name == "student@2"
    assert models.resolve("student@1").name == "student@1"
    assert models.resolve("student@1").sha256 != models.resolve("student").sha256
    assert models.pinned("student") == "student@2"
    assert [str(one) for one in models.registry.all()] == ["student@1", "student@2"]


def test_registered_model_is_that_of_its_source(models: Store, source: Path) -> None:
    before = models.resolve(source)
    added(models, source)
    shutil.rmtree(source)
    found = models.resolve("student")
    assert (found.sha256, found.kind) == (before.sha256, "whisper")
    assert_same(read_whisper(found.folder), tiny())


def test_model_of_another_format_is_kept_as_engines_read_it(models: Store, trained: Path) -> None:
    added(models, trained)
    found = models.resolve("student")
    assert_same(read_whisper(found.folder), tiny())
    assert {path.name for path in found.folder.iterdir()} >= {"model.bin", "README.md"}
    assert not (found.folder / "checkpoints").exists()


def test_ctc_model_is_registered_with_all_that_its_text_depends_on(
    models: Store, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "ctc")
    (folder / "scorer.json").write_text("{}")
    before = models.resolve(folder)
    added(models, folder, "letters")
    found = models.resolve("letters")
    assert (found.kind, found.sha256) == ("ctc", before.sha256)
    assert (found.folder / "scorer.json").exists()


def test_registered_name_wins_over_a_folder(
    models: Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added(models, source, "source")
    monkeypatch.chdir(tmp_path)
    assert models.resolve("source").name == "source@1"
    assert models.resolve("./source").folder == Path("source")


def test_number_is_never_given_again(models: Store, source: Path) -> None:
    for _ in range(2):
        added(models, source)
    models.registry.remove(Version("student", 2))
    assert models.resolve("student").name == "student@1"
    assert added(models, source).number == 3
    with pytest.raises(UnknownName, match="no version `2`") as caught:
        models.resolve("student@2")
    assert "1, 3" in caught.value.do


def test_last_version_that_is_removed_takes_the_name_with_it(models: Store, source: Path) -> None:
    models.registry.remove(added(models, source))
    assert models.registry.all() == []
    with pytest.raises(UnknownName, match="student"):
        models.resolve("student")
    assert not list(models.root.glob(".partial-*"))


def test_those_that_add_at_once_get_numbers_of_their_own(models: Store, source: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: added(models, source).number, range(12)))
    assert sorted(found) == list(range(1, 13))
    assert all(models.resolve(f"student@{number}") for number in found)
    assert not list(models.root.glob(".partial-*"))


# --- what is refused ----------------------------------------------------------------------------

NAMES = ["", ".", "..", "../x", "a/b", "/etc", "Student", "a@1", "a\0b", "x" * 65, "-a", "a.", "ä"]


@pytest.mark.parametrize("name", [*NAMES, "base", "turbo", "silero-vad"])
def test_name_that_cannot_be_one_is_refused(
    models: Store, source: Path, tmp_path: Path, name: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"cannot be a model's name|of the catalogue"):
        added(models, source, name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", [*NAMES, "student@", "student@0", "student@01", "student@x"])
def test_hostile_name_finds_nothing(models: Store, source: Path, name: str) -> None:
    added(models, source)
    with pytest.raises(UnknownName):
        models.pinned(name)


def test_model_that_cannot_be_read_is_not_registered(models: Store, source: Path) -> None:
    weights = source / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelDamaged):
        added(models, source)
    assert models.registry.all() == []
    assert not list(models.root.glob(".partial-*"))


def test_model_that_transcribes_nothing_is_not_registered(models_dir: Path, models: Store) -> None:
    found = Store(models_dir).resolve("silero-vad")
    with pytest.raises(UnsupportedOption, match="does not transcribe"):
        models.registry.add("own", found, {}, registered_card)


def truncated(folder: Path) -> None:
    weights = folder / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1])


def put_there(folder: Path) -> None:
    (folder / "scorer.arpa").write_text("mine")


def linked(folder: Path) -> None:
    (folder / "model.bin").unlink()
    (folder / "model.bin").symlink_to("/dev/zero")


def recorded(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        record = json.loads((folder / "registered.json").read_bytes())
        (folder / "registered.json").write_text(json.dumps({**record, **changes}))

    return change


DAMAGE = {
    "truncated": truncated,
    "missing": lambda folder: (folder / "tokenizer.json").unlink(),
    "put there": put_there,
    "linked": linked,
    "no record": lambda folder: (folder / "registered.json").unlink(),
    "no JSON": lambda folder: (folder / "registered.json").write_text("{"),
    "files": recorded(files=[]),
    "no files": recorded(files={}),
    "outside": recorded(files={"../../../../etc/passwd": "0"}),
    "kind": recorded(kind="vad"),
    "hash": recorded(sha256=None),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_version_is_refused_by_name(
    models: Store, source: Path, damage: Callable[[Path], object]
) -> None:
    version = added(models, source)
    damage(models.registry.folder(version))
    with pytest.raises(ModelDamaged) as caught:
        models.resolve("student")
    assert "student" in caught.value.what or "model.bin" in caught.value.what
    assert models.registry.all() == [version]


def test_registry_that_cannot_be_written_is_named(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputUnwritable, match="models folder"):
        Registry(tmp_path / "file" / "models").add(
            "own", Store(tmp_path).resolve(source), {}, registered_card
        )


# --- facts and cards ----------------------------------------------------------------------------


def assert_tells(card: str) -> None:
    """Teacher, data, filter, rates and licence of `RECORD`, and no path of its machine."""
    assert "| teacher | `base`, SHA-256 `d01c3014` |" in card
    assert "| licence | that of its teacher `base`: MIT |" in card
    assert "| trained on | `kept\\|.jsonl`: 265 items, 1.6 h, `ab` |" in card
    assert "| licences of what it was trained on | CC-BY-4.0: 1.6 h |" in card
    assert "265 of 290 windows, 1.6 h; dropped: 25 wer; bounds: max_wer 0.1" in card
    assert "| 40 (this model) | 25.00 |" in card
    assert "| 60 | 37.50 |" in card
    assert "anna" not in card


def test_card_tells_how_a_model_came_about(models: Store, trained: Path) -> None:
    version = added(models, trained)
    assert_tells(card_of(models, version))
    assert models.resolve("student")  # the card is one of its files


@pytest.mark.parametrize("registered", [False, True])
def test_card_of_an_export_tells_it_too(
    models: Store, trained: Path, tmp_path: Path, *, registered: bool
) -> None:
    if registered:
        added(models, trained)
    model: LocalModel = models.resolve("student" if registered else trained)
    export(model, "ggml", tmp_path / "out", measured=[DECISION])
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert_tells(card)
    assert "| now | eval.jsonl | 5.00 | `base` | 4.50 | 1.7x | 800 | promoted |" in card


DECISION: Mapping[str, Any] = {
    "time": "now",
    "outcome": "promoted",
    "instead_of": "base",
    "candidate": {"wer": 0.05},
    "default": {"wer": 0.045},
    "found": {"speed_ratio": 1.7},
    "data": {"sources": ["eval.jsonl"], "words": 800},
}


def test_licence_that_is_told_stands_in_the_card(models: Store, source: Path) -> None:
    version = added(models, source, licence="MIT |\n# own | heading")
    assert "| licence | MIT \\| # own \\| heading |" in card_of(models, version)


@pytest.mark.parametrize(
    "said",
    [
        "no JSON",
        "[]",
        '{"kind": "something else"}',
        '{"kind": "distil", "teacher": 3, "train": [], "filter": "x", "licences": [1]}',
        '{"kind": "ctc", "init": {"a": 1}, "train": {"hours": null}, "evaluations": 1}',
        '{"kind": "distil", "teacher": {"name": "base"}, "layers": 7, "valid": {"source": [1]}}',
    ],
)
@pytest.mark.parametrize("registered", ["[]", '{"training": [1], "licence": {"a": "b"}}'])
def test_records_of_strangers_do_no_harm(
    models: Store, trained: Path, said: str, registered: str
) -> None:
    (trained / "hyperparameters.json").write_text(said)
    (trained / "metrics.jsonl").write_text('[]\n{"valid": {"wer": "low"}}\nnot JSON\n')
    (trained / "registered.json").write_text(registered)
    assert "## How to open it" in card_of(models, added(models, trained))


# --- the default --------------------------------------------------------------------------------


def test_default_follows_the_decisions(models: Store) -> None:
    promotions = models.promotions
    assert models.default() == "base"
    promotions.write(PROMOTED, "student@1", {"found": {}}, instead_of="base")
    promotions.write(REFUSED, "student@2", {}, instead_of="student@1")
    assert models.default() == "student@1"
    promotions.write(PROMOTED, "student@3", {}, instead_of="student@1")
    assert promotions.defaults() == ["base", "student@1", "student@3"]
    promotions.write(DEMOTED, "student@3", {}, instead_of="student@3")
    assert Store(models.root).default() == "student@1"
    assert [one["outcome"] for one in promotions.of("student@3")] == [PROMOTED, DEMOTED]


def test_setting_wins_over_what_was_promoted(
    models: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.promotions.write(PROMOTED, "student@1", {}, instead_of="base")
    monkeypatch.setattr(settings(), "model", "tiny.en")
    assert models.default() == "tiny.en"


def test_decision_about_another_default_is_refused(models: Store) -> None:
    models.promotions.write(PROMOTED, "mine@1", {}, instead_of="base")
    before = (models.root / FILE).read_bytes()
    with pytest.raises(PromotionRefused, match="`mine@1`"):
        models.promotions.write(PROMOTED, "yours@1", {}, instead_of="base")
    assert (models.root / FILE).read_bytes() == before


def test_of_those_that_promote_at_once_one_succeeds(models: Store) -> None:
    def promoted(number: int) -> bool:
        try:
            models.promotions.write(PROMOTED, f"own@{number}", {}, instead_of="base")
        except PromotionRefused:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(promoted, range(1, 13))) == 1
    assert len(models.promotions.records()) == 1


def test_line_of_a_killed_process_is_none(models: Store) -> None:
    models.promotions.write(PROMOTED, "student@1", {}, instead_of="base")
    with (models.root / FILE).open("ab") as file:
        file.write(b'{"outcome": "promoted", "model": "half')
    assert models.default() == "student@1"
    models.promotions.write(DEMOTED, "student@1", {}, instead_of="student@1")
    assert models.default() == "base"
    assert (models.root / FILE).read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    "line", ["not JSON", "[]", '{"outcome": "promoted"}', '{"outcome": "own", "model": "x"}']
)
def test_damaged_line_is_named_and_nothing_is_guessed(models: Store, line: str) -> None:
    models.promotions.write(PROMOTED, "student@1", {}, instead_of="base")
    with (models.root / FILE).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ModelDamaged, match="line 2") as caught:
        models.default()
    assert "--model" in caught.value.do
    with pytest.raises(ModelDamaged):
        models.promotions.write(PROMOTED, "x@1", {}, instead_of="student@1")


def test_full_disk_leaves_the_decisions_as_they_were(
    models: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.promotions.write(PROMOTED, "x@1", {}, instead_of="base")
    before = (models.root / FILE).read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stenopool.models.promotions.os.fsync", full)
    with pytest.raises(StorageFull):
        models.promotions.write(PROMOTED, "y@1", {}, instead_of="x@1")
    assert (models.root / FILE).read_bytes() == before


def test_record_that_is_a_link_out_of_the_folder_is_refused(models: Store) -> None:
    models.root.mkdir()
    (models.root / FILE).symlink_to("/dev/zero")
    with pytest.raises(ModelDamaged):
        models.default()


# --- where models are named ---------------------------------------------------------------------


def test_pipeline_keeps_the_version_that_a_name_means(
    models: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stenopool.cli.run import check_request, model_name
    from stenopool.pipeline.watch import parsed_sidecar

    monkeypatch.setattr(settings(), "models_dir", models.root)
    added(models, source)
    assert model_name("student") == "student@1"
    check_request("student@1", Options())
    assert parsed_sidecar(b'{"model": "student"}')["model"] == "student@1"
    with pytest.raises(UnknownName, match="no version"):
        parsed_sidecar(b'{"model": "student@7"}')


def test_server_knows_registered_models(
    models: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from stenopool.pipeline.job import Group
    from stenopool.service import openai

    monkeypatch.setattr(settings(), "models_dir", models.root)
    added(models, source)
    default = SimpleNamespace(state=SimpleNamespace(default=Group("base", "auto", "cpu")))
    request: Any = SimpleNamespace(app=default)
    assert openai.group_of(request, "student") == Group("student@1", "auto", "cpu")
    assert "student@1" in openai._names()
    for name in ("student@2", "../student", "teacher"):
        with pytest.raises(UnknownName):
            openai.group_of(request, name)
