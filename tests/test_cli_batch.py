from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands import InProcess, Ran, tree
from pipelines import lay
from stenopool.pipeline import liveness, supervisor
from stenopool.settings import settings

# Runs `steno` and says which engines it has loaded.
WATCHED = """
import sys
from stenopool.cli import main
try:
    main()
except SystemExit as exit:
    loaded = {"openvino", "ctranslate2", "onnxruntime"} & set(sys.modules)
    print("loaded:", sorted(loaded), file=sys.stderr)
    sys.exit(exit.code)
"""


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    (tmp_path / "bucket" / "input").mkdir(parents=True)
    return tmp_path / "bucket"


class Batch:
    """`steno batch` with one bucket and its database."""

    def __init__(self, run: InProcess, bucket: Path) -> None:
        self.run = run
        self.bucket = bucket

    def __call__(self, *arguments: str) -> Ran:
        return self.run("batch", *arguments, "--bucket", self.bucket)

    def submit(self, *arguments: str, children: int = 2) -> Ran:
        return self("submit", "--children", str(children), "--model", "tiny.en", *arguments)

    def submitted(self, *arguments: str, children: int = 2) -> dict[str, Any]:
        """A batch."""
        (data,) = self.submit("--json", *arguments, children=children).lines
        assert isinstance(data, dict)
        return data

    def states(self, batch: str) -> dict[str, int]:
        """How many of its recordings are in which state."""
        (data,) = self("status", batch, "--json").lines
        states: dict[str, int] = data["total"]["states"]
        return states


@pytest.fixture
def batch(within: InProcess, bucket: Path) -> Batch:
    return Batch(within, bucket)


def finished(bucket: Path) -> list[str]:
    return [name for name in tree(bucket / "output") if name.endswith(".json")]


# --- at once -----------------------------------------------------------------------------------


def test_input_is_parted_by_length(batch: Batch) -> None:
    lay(batch.bucket, "long.wav", seconds=9.0)
    lay(batch.bucket, "a.wav", "b.wav", "c.wav", seconds=3.0)
    ran = batch.submit()
    assert ran.status == 0
    assert ran.stderr == "4 recordings, 0:18 of audio, 2 children\n"
    name = ran.text.strip()
    (data,) = batch("status", name, "--json").lines
    assert [one["recordings"] for one in data["children"]] == [1, 3]
    assert [one["seconds"] for one in data["children"]] == [9.0, 9.0]
    assert data["total"]["states"] == {"waiting": 4}
    header, *rows = batch("status", name).text.splitlines()
    assert header.split()[0] == "child"
    assert [row.split()[:3] for row in rows] == [
        ["0", "1", "0:09"],
        ["1", "3", "0:09"],
        ["all", "4", "0:18"],
    ]


def test_workers_do_a_batch(batch: Batch) -> None:
    lay(batch.bucket, "fine.wav", "silent.wav")
    name = batch.submitted()["id"]
    ran = batch.run("worker", "--once", "--bucket", batch.bucket)
    assert ran.status == 3
    assert batch.states(name) == {"done": 1, "failed": 1}
    assert finished(batch.bucket) == ["fine.wav.json"]
    (line,) = batch("status", name, "--json").lines
    assert line["total"]["compute_seconds"] >= 0
    assert batch("status", name).text.splitlines()[-1].split()[3:6] == ["1", "1", "0"]


def test_nothing_to_do_is_no_batch(batch: Batch) -> None:
    ran = batch.submit()
    assert (ran.status, ran.text, ran.stderr) == (0, "", "nothing to do\n")
    assert batch.submitted() == {"id": None, "children": []}
    assert batch("list").text == ""


def test_what_is_a_job_already_is_in_no_other_batch(batch: Batch) -> None:
    lay(batch.bucket, "a.wav")
    assert batch.submitted()["total"]["recordings"] == 1
    assert batch.submitted()["id"] is None


def test_batches_are_listed_and_cancelled(batch: Batch) -> None:
    names = []
    for name in ("a.wav", "b.wav"):
        lay(batch.bucket, name)
        names.append(batch.submitted()["id"])
    assert [line["id"] for line in batch("list", "--json").lines] == names[::-1]
    assert batch("cancel", names[0]).stderr == "cancelled: 1 jobs\n"
    assert batch("cancel", names[0]).stderr == "cancelled: 0 jobs\n"
    assert [batch.states(name) for name in names] == [{"cancelled": 1}, {"waiting": 1}]
    first, second = batch("list").text.splitlines()
    assert first.startswith(names[1])
    assert second.endswith("1 cancelled")
    assert tree(batch.bucket / "input") == ["a.wav", "b.wav"]


# --- children that something outside runs ------------------------------------------------------


def test_each_child_does_its_own_list(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(batch.bucket, "fine long.wav", seconds=9.0)
    lay(batch.bucket, "fine.wav", "silent.wav", seconds=3.0)
    name = batch.submitted("--outside")["id"]
    assert batch.run("worker", "--once", "--bucket", batch.bucket).stderr.startswith("0 tr")
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", "1")
    ran = batch("child", "--batch", name, "--json")
    assert ran.status == 3
    assert {line["key"]: line["state"] for line in ran.lines[:-1]} == {
        "input/fine.wav": "done",
        "input/silent.wav": "failed",
    }
    assert [line["child"] for line in ran.lines[:-1]] == [1, 1]
    assert tree(batch.bucket / "input") == ["fine long.wav"]
    again = batch("child", "--batch", name)
    assert (again.status, again.stderr) == (0, "nothing to do\n")
    assert batch("child", "--batch", name, "--index", "0").status == 0  # before the environment
    assert batch.states(name) == {"done": 2, "failed": 1}
    assert finished(batch.bucket) == ["fine long.wav.json", "fine.wav.json"]
    assert tree(batch.bucket / "work") == []


def test_child_that_was_killed_is_finished_by_the_next(
    batch: Batch, scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SWEEP_SECONDS", 0.2)
    monkeypatch.setattr(liveness, "PARENT_SECONDS", 0.2)
    lay(batch.bucket, "fine.wav", "wait.wav")
    name = batch.submitted("--outside", children=1)["id"]
    child = ["child", "--batch", name, "--index", "0"]
    process = scripted.start("batch", *child, "--bucket", batch.bucket, "--json")
    assert json.loads(process.stdout.readline())["key"] == "input/fine.wav"
    process.kill()
    process.communicate()
    (tmp_path / "open").touch()
    ran = batch(*child, "--json")
    assert ran.status == 0
    assert [line["key"] for line in ran.lines[:-1]] == ["input/wait.wav"]
    assert batch.states(name) == {"done": 2}


@pytest.mark.parametrize("index", ["5", "99999"])
def test_child_without_a_list_has_nothing_to_do(batch: Batch, index: str) -> None:
    lay(batch.bucket, "a.wav")
    name = batch.submitted("--outside")["id"]
    ran = batch("child", "--batch", name, "--index", index)
    assert (ran.status, ran.stderr) == (0, "nothing to do\n")


def test_child_must_know_which_it_is(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_BATCH_JOB_ARRAY_INDEX", "JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    ran = batch("child", "--batch", "any")
    assert ran.status == 2
    assert "which child is this?" in ran.stderr


@pytest.mark.parametrize("command", ["submit", "child"])
def test_with_nothing_to_do_no_engine_is_loaded(bucket: Path, command: str) -> None:
    arguments = {
        "submit": ["--children", "3", "--model", "tiny.en"],
        "child": ["--batch", "20260101-000000-abcdef", "--index", "0"],
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "batch", command, "--bucket", bucket, *arguments[command]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "nothing to do\nloaded: []\n")
    assert tree(bucket) == []


# --- by the clock ------------------------------------------------------------------------------


def test_schedule_is_set_paused_resumed_triggered_and_deleted(batch: Batch) -> None:
    ran = batch.submit("--schedule", "0 1 * * *", "--timezone", "Europe/Berlin", "--name", "night")
    assert (ran.status, ran.text) == (0, "")
    assert ran.stderr.startswith("scheduled: night, next at ")
    (line,) = batch("schedules", "--json").lines
    assert (line["name"], line["cron"], line["timezone"]) == ("night", "0 1 * * *", "Europe/Berlin")
    assert (line["children"], line["paused"], line["bucket"]) == (2, False, batch.bucket.as_uri())
    assert line["defaults"]["group"]["model"] == "tiny.en"
    assert batch("pause", "night").stderr == "paused: night\n"
    assert [one["next"] for one in batch("schedules", "--json").lines] == [None]
    assert "paused" in batch("schedules").text
    assert batch("resume", "night").stderr == "goes on: night\n"
    assert batch("trigger", "night").stderr == "nothing to do\n"
    lay(batch.bucket, "a.wav")
    name = batch("trigger", "night").text.strip()
    assert batch.states(name) == {"waiting": 1}
    assert [line["schedule"] for line in batch("list", "--json").lines] == ["night"]
    assert batch("unschedule", "night").stderr == "deleted: night\n"
    assert batch("schedules", "--json").lines == []
    assert batch.states(name) == {"waiting": 1}


# --- wrong requests ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--schedule", "0 1 * * *"], "a schedule needs a name"),
        (["--name", "night"], "a schedule needs a name"),
        (["--schedule", "0 1 * * *", "--name", "night", "--outside"], "clock of its own"),
        (["--schedule", "1 o'clock", "--name", "night"], "not a cron expression"),
        (["--schedule", "0 1 * * *", "--name", "a/b"], "not a name"),
        (["--schedule", "0 1 * * *", "--name", "a", "--timezone", "Mars"], "no such time zone"),
        (["--format", "doc"], "no such output format"),
        (["--language", "fr"], "English only"),
    ],
)
def test_wrong_request_changes_nothing(batch: Batch, arguments: list[str], said: str) -> None:
    lay(batch.bucket, "a.wav")
    ran = batch.submit(*arguments)
    assert ran.status == 2
    assert said in ran.stderr
    assert ran.stderr.count("error[") == ran.stderr.count("\nhint: ") == 1
    assert tree(batch.bucket) == ["input/a.wav"]
    assert batch("list").text == ""
    assert batch("schedules", "--json").lines == []


@pytest.mark.parametrize("command", ["status", "cancel"])
def test_batch_that_is_none_is_refused(batch: Batch, command: str) -> None:
    ran = batch(command, "none")
    assert ran.status == 2
    assert ran.stderr.startswith("error[unknown_name]: no batch `none`")


@pytest.mark.parametrize("command", ["pause", "resume", "trigger", "unschedule"])
def test_schedule_that_is_none_is_refused(batch: Batch, command: str) -> None:
    ran = batch(command, "none")
    assert ran.status == 2
    assert ran.stderr.startswith("error[unknown_name]: no schedule `none`")


def test_database_of_the_settings_is_used(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STENO_DATABASE", f"sqlite:///{tmp_path / 'shared.sqlite'}")
    settings.cache_clear()
    lay(batch.bucket, "a.wav")
    name = batch.submitted()["id"]
    assert batch.run("batch", "list", "--json").lines[0]["id"] == name
    assert not (batch.bucket / ".stenopool").exists()
