"""`steno models add|promote|demote|remove`: what becomes the default, and what does not."""

from __future__ import annotations

import shutil
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commands import InProcess, Ran, Steno
from evaluations import Heard, write_manifest
from stenopool.errors import EngineFailed, NotMedia
from stenopool.evaluation import systems
from stenopool.evaluation.machine import machine
from stenopool.evaluation.systems import Answer
from stenopool.models import Store
from stenopool.models.card import registered_card
from stenopool.models.formats.ctranslate2_writer import write_ctranslate2
from stenopool.models.promotions import PROMOTED
from stenopool.settings import settings
from whisper_models import tiny

SAID = "the quick brown fox jumps over the lazy dog and runs away"


@dataclass
class Slow(Heard):
    """Takes its time, and fails or dies where it is told to."""

    fails: str = ""
    dies: bool = False

    def transcribe(self, paths: Sequence[Path], *, together: bool = False) -> Any:
        for path in paths:
            if self.dies:
                raise EngineFailed("out of memory", do="Give it more")
            failed = NotMedia("bad", do="Look").record() if path.name == self.fails else None
            yield Answer("" if failed else self.hears(path), self.seconds, failed)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with `student@1` and the default `usual@1`, both of random numbers."""
    folder = tmp_path_factory.mktemp("filled")
    (folder / "source").mkdir()
    write_ctranslate2(tiny(), folder / "source")
    store = Store(folder / "models")
    for name in ("usual", "student"):
        store.registry.add(name, store.resolve(folder / "source"), {}, registered_card)
    store.promotions.write(PROMOTED, "usual@1", {}, instead_of="base")
    return store.root


@pytest.fixture
def models(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A copy that is that of the settings."""
    monkeypatch.setattr(settings(), "models_dir", tmp_path / "models")
    return Store(Path(shutil.copytree(filled, tmp_path / "models")))


@pytest.fixture
def here(
    models: Store, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> InProcess:
    return InProcess(monkeypatch, capfdbinary)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Ten seconds each, with one text; `silent.wav` has none."""
    names = [*(f"{number}.wav" for number in range(4)), "silent.wav"]
    for name in names:
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(bytes(2 * 160_000))
    lines: list[dict[str, object]] = [
        {"id": one, "audio": one, "language": "en", "text": SAID} for one in names[:-1]
    ]
    lines.append({"id": "silent", "audio": "silent.wav", "text": ""})
    return write_manifest(tmp_path / "eval.jsonl", lines)


Promote = Callable[..., Ran]


@pytest.fixture
def promote(here: InProcess, recordings: Path, monkeypatch: pytest.MonkeyPatch) -> Promote:
    """Runs `steno models promote student`; its process and that of the default are scripted."""

    def run(
        *arguments: str,
        heard: str = SAID,
        seconds: float = 0.5,
        hears: Callable[[Path], str] | None = None,
        **more: Any,
    ) -> Ran:
        def ours(model: str, *, name: str, **_given: object) -> Slow:
            assert model == name
            if name == "usual@1":
                return Slow(name, lambda _: SAID, 1.0)
            assert name == "student@1"
            return Slow(name, hears or (lambda _: heard), seconds, **more)

        monkeypatch.setattr(systems, "ours", ours)
        return here("models", "promote", "student", "--on", str(recordings), "--quiet", *arguments)

    return run


def test_good_and_fast_model_becomes_the_default(promote: Promote, models: Store) -> None:
    run = promote()
    assert run.status == 0
    assert "`student@1` is the default now, instead of `usual@1`" in run.stderr
    rows = {line.split()[0]: line for line in run.text.splitlines()}
    assert rows["student@1"].split()[1:3] == ["0.00", "20.0"]
    assert "2.00x" in rows["difference"]
    assert models.default() == "student@1"


def test_decision_is_recorded_with_all_that_it_rests_on(
    promote: Promote, models: Store, recordings: Path
) -> None:
    (told,) = promote("--json", "--max-wer-increase", "1.5").lines
    record = models.promotions.records()[-1]
    assert {key: record[key] for key in told} == told
    assert (record["outcome"], record["model"]) == ("promoted", "student@1")
    assert record["instead_of"] == "usual@1"
    assert record["bounds"] == {"max_wer_increase": 0.015, "min_speed": 0.95, "sure": False}
    assert record["found"]["wer_increase"] == 0
    assert record["found"]["speed_ratio"] == 2
    assert record["candidate"]["sha256"] == models.resolve("student").sha256
    assert record["default"]["speeds"] == [10.0, 10.0, 10.0]
    data = record["data"]
    assert (data["recordings"], data["words"], data["seconds"]) == (4, 4 * 12, 40.0)
    assert set(data["sha256"]) == {recordings.name}
    assert record["time"]


WORSE = SAID.replace("lazy", "crazy")
OUTSIDE = {
    "worse": ({"heard": WORSE}, [], "word error rate is +8.33 points, and 0.50 are allowed"),
    "slow": ({"seconds": 1.25}, [], "0.80 times as fast, and 0.95 are asked for"),
    "not fast enough": ({}, ["--min-speed", "2.5"], "2.00 times as fast, and 2.50"),
    "not better": ({}, ["--max-wer-increase", "-1"], "+0.00 points, and -1.00 are allowed"),
    "failing": (
        {"fails": "2.wav"},
        ["--max-wer-increase", "99"],
        "failed on 1 of the recordings, the default on 0",
    ),
}


@pytest.mark.parametrize(("scripted", "arguments", "why"), OUTSIDE.values(), ids=OUTSIDE)
def test_model_outside_the_bounds_is_refused_and_nothing_changes(
    promote: Promote, models: Store, scripted: dict[str, Any], arguments: list[str], why: str
) -> None:
    run = promote(*arguments, **scripted)
    assert run.status == 4
    assert "error[promotion_refused]: `student@1` does not take the place" in run.stderr
    assert why in run.stderr
    assert models.default() == "usual@1"
    record = models.promotions.records()[-1]
    assert (record["outcome"], record["instead_of"]) == ("refused", "usual@1")
    assert why in " ".join(record["found"]["reasons"])


def test_worse_model_within_wider_bounds_is_promoted(promote: Promote, models: Store) -> None:
    assert promote("--max-wer-increase", "9", heard=WORSE).status == 0
    assert models.default() == "student@1"


def test_sure_judges_by_the_end_of_the_interval(
    promote: Promote, models: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse_at_one(path: Path) -> str:
        return WORSE if path.name == "1.wav" else SAID

    bounds = ["--max-wer-increase", "3"]  # points; it is 1 word of 48 worse, and maybe more
    refused = promote(*bounds, "--sure", hears=worse_at_one)
    assert refused.status == 4
    assert "may be +6.25 points, and 3.00 are allowed" in refused.stderr
    run = promote(*bounds, hears=worse_at_one)
    assert run.status == 0
    assert "the increase may be as much as 6.25 points" in run.stderr
    assert models.default() == "student@1"


def test_dry_run_changes_and_records_nothing(promote: Promote, models: Store) -> None:
    before = models.promotions.records()
    assert promote("--dry-run").status == 0
    assert promote("--dry-run", heard="nothing").status == 4
    assert (models.promotions.records(), models.default()) == (before, "usual@1")


def test_model_whose_process_dies_is_not_compared(promote: Promote, models: Store) -> None:
    run = promote(dies=True)
    assert run.status == EngineFailed.exit_status
    assert "out of memory" in run.stderr
    assert models.default() == "usual@1"


def test_default_that_changes_meanwhile_is_not_passed_over(
    promote: Promote, models: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(*_: object) -> Any:
        models.promotions.write(PROMOTED, "other@1", {}, instead_of="usual@1")
        return machine()

    monkeypatch.setattr("stenopool.evaluation.promotion.machine", meanwhile)
    run = promote()
    assert run.status == 4
    assert "another model became the default meanwhile: `other@1`" in run.stderr
    assert models.default() == "other@1"


def test_demotion_goes_back_one_by_one(promote: Promote, here: InProcess, models: Store) -> None:
    promote()
    for before in ("usual@1", "base"):
        run = here("models", "demote")
        assert (run.status, run.text) == (0, f"{before}\n")
        assert models.default() == before
    assert here("models", "demote").stderr.startswith("error[usage]: no model was promoted")


def test_what_is_the_default_is_not_promoted_or_removed(here: InProcess, recordings: Path) -> None:
    run = here("models", "promote", "usual@1", "--on", str(recordings))
    assert "`usual@1` is the default already" in run.stderr
    run = here("models", "remove", "usual@1")
    assert run.status == 2
    assert "is the default" in run.stderr


def test_remove_wants_a_version(here: InProcess, models: Store) -> None:
    assert "such as `student@1`" in here("models", "remove", "student").stderr
    assert here("models", "remove", "student@1").status == 0
    assert [str(one) for one in models.registry.all()] == ["usual@1"]
    assert here("models", "remove", "student@1").stderr.startswith("error[unknown_name]")


def test_recordings_without_texts_are_refused(here: InProcess, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no sound")
    for content in ("", '{"audio": "a.wav"}\n'):
        (tmp_path / "none.jsonl").write_text(content)
        run = here("models", "promote", "student", "--on", str(tmp_path / "none.jsonl"))
        assert run.status in (2, 3), run.stderr
    assert Store().default() == "usual@1"


def test_list_and_show_tell_versions_and_the_default(
    here: InProcess, promote: Promote, models: Store
) -> None:
    promote()
    lines = {line["name"]: line for line in here("models", "list", "--json").lines}
    assert lines["student@1"]["default"]
    assert lines["student@1"]["pulled"]
    assert not lines["usual@1"]["default"]
    rows = [line.split() for line in here("models", "list").text.splitlines()]
    assert ["student@1", "yes", "yes"] in [row[:3] for row in rows]
    (shown,) = here("models", "show", "student", "--json").lines
    assert shown["name"] == "student@1"
    assert shown["sha256"] == models.resolve("student").sha256
    assert [one.split()[0] for one in shown["decisions"]] == ["promoted"]


def test_damaged_version_spoils_no_list(here: InProcess, models: Store) -> None:
    folder = models.registry.folder(models.registry.find("student"))
    (folder / "registered.json").write_text("[")
    run = here("models", "list")
    assert run.status == 0
    assert "registered.json" in next(
        line for line in run.text.splitlines() if line.startswith("student@1")
    )
    assert here("models", "show", "student").status == 4


@pytest.mark.parametrize("name", ["base", "a/b", ""])
def test_add_refuses_a_name_before_it_reads_a_model(here: InProcess, name: str) -> None:
    run = here("models", "add", "/nowhere", "--name", name)
    assert run.status == 2
    assert run.stderr.startswith("error[usage]")


def test_real_model_takes_the_place_of_its_equal(
    steno: Steno, models_dir: Path, speech_wav: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("tiny.en", "silero-vad"):
        (folder / name).symlink_to(models_dir / name)
    Store(folder).promotions.write(PROMOTED, "tiny.en", {}, instead_of="base")
    said = "we were all going direct to heaven we were all going direct the other way"
    lines: list[dict[str, object]] = []
    with wave.open(str(speech_wav)) as file:
        rate = file.getframerate()
        for number, (start, end) in enumerate([(24.3, 28.7), (24.4, 28.6)]):
            file.setpos(round(start * rate))
            with wave.open(str(tmp_path / f"{number}.wav"), "wb") as clip:
                clip.setparams(file.getparams())
                clip.writeframes(file.readframes(round((end - start) * rate)))
            lines.append({"audio": f"{number}.wav", "text": said, "language": "en"})
    manifest = write_manifest(tmp_path / "eval.jsonl", lines)
    here = {"STENO_MODELS_DIR": str(folder)}

    added = steno("models", "add", "tiny.en", "--name", "copy", settings=here)
    assert (added.status, added.text) == (0, "copy@1\n")
    bounds = ("--min-speed", "0.2", "--rounds", "1")
    run = steno("models", "promote", "copy", "--on", manifest, *bounds, "--json", settings=here)
    assert run.status == 0, run.stderr
    (record,) = run.lines
    assert record["candidate"]["wer"] == record["default"]["wer"] < 0.2
    assert record["found"]["wer_increase_interval"] == [0, 0]
    heard = steno("transcribe", tmp_path / "0.wav", "--json", settings=here)
    transcript = heard.lines[0]["transcript"]
    assert transcript["model"]["name"] == "copy@1"
    assert "heaven" in transcript["text"]
