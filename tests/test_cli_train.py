"""`steno train ctc`, as a user has it: killed, interrupted, out of disk, and going on."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import STENO, InProcess, ran
from stenopool.training import extras
from trainings import micro_model, records, spoken_set

ENVIRONMENT = {**os.environ, "STENO_OFFLINE": "1", "OMP_NUM_THREADS": "2", "NO_COLOR": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train`, `valid`, the model `micro`, and `whole`: a training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("place")
    spoken_set(folder / "train", 16, seed=1)
    spoken_set(folder / "valid", 4, seed=2)
    micro_model(folder / "micro")
    done = ran([*STENO, *arguments(folder, folder / "whole")], ENVIRONMENT)
    assert done.status == 0, done.stderr
    return folder


def arguments(place: Path, output: Path, *more: str) -> list[str]:
    named = {
        "--train": place / "train",
        "--valid": place / "valid",
        "--init": place / "micro",
        "--output": output,
        "--steps": 60,
        "--evaluate-every": 5,
        "--batch-seconds": 2,
        "--accumulate": 2,
        "--join": 2,
        "--learning-rate": 0.01,
        "--device": "cpu",
    }
    return ["train", "ctc", *(str(one) for pair in named.items() for one in pair), *more]


def started(place: Path, output: Path, *more: str) -> subprocess.Popen[bytes]:
    """A training that has written its second checkpoint and goes on."""
    process = subprocess.Popen(
        [*STENO, *arguments(place, output, *more)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not (output / "checkpoints" / "step-00000010" / "state.json").exists():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


def last(output: Path) -> Path:
    return max((output / "checkpoints").glob("step-*"))


@pytest.mark.slow
def test_killed_training_goes_on_to_the_same_bytes(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = started(place, output)
    time.sleep(0.05)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert last(output).name < "step-00000060"
    done = ran([*STENO, *arguments(place, output, "--resume")], ENVIRONMENT)
    assert done.status == 0, done.stderr
    for name in ("model.safetensors", "optimiser.safetensors"):
        assert (last(output) / name).read_bytes() == (last(place / "whole") / name).read_bytes()
    assert (output / "model.safetensors").read_bytes() == (
        place / "whole" / "model.safetensors"
    ).read_bytes()
    evaluations = [
        [(line["step"], line["valid"]) for line in records(folder) if "valid" in line]
        for folder in (output, place / "whole")
    ]
    assert evaluations[0] == evaluations[1]
    assert not list(output.rglob(".stenopool-*"))


@pytest.mark.slow
def test_interrupted_training_saves_its_state_and_goes_on(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = started(place, output, "--evaluate-every", "10")
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130, shown.decode()
    assert "Traceback" not in shown.decode()
    done = ran(
        [*STENO, *arguments(place, output, "--resume", "--evaluate-every", "10")], ENVIRONMENT
    )
    assert done.status == 0, done.stderr
    name = "model.safetensors"
    assert (last(output) / name).read_bytes() == (last(place / "whole") / name).read_bytes()


def test_full_disk_has_a_name_and_an_exit_status(place: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk; a checkpoint's optimiser is beyond it."""
    output = tmp_path / "out"
    size = (last(place / "whole") / "optimiser.safetensors").stat().st_size - 1000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = subprocess.run(
        [*STENO, *arguments(place, output)],
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
        preexec_fn=limited,
    )
    assert done.returncode == 6, done.stderr.decode()
    assert b"error[storage_full]" in done.stderr
    assert list((output / "checkpoints").iterdir()) == []


def test_end_is_told_and_so_is_each_evaluation(place: Path) -> None:
    told = json.loads((place / "whole" / "hyperparameters.json").read_text())
    assert told["processes"] == 1
    assert told["trained_parameters"] < told["parameters"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> InProcess:
    """The command in this process."""
    return InProcess(monkeypatch, capfdbinary)


def test_progress_is_talk_and_the_end_is_data(here: InProcess, place: Path, tmp_path: Path) -> None:
    done = here(*arguments(place, tmp_path / "out", "--steps", "5"), "--json")
    assert done.status == 0, done.stderr
    (told,) = done.lines
    assert told["model"] == str(tmp_path / "out")
    assert (told["step"], told["best_step"]) == (5, 5)
    assert "training on 16 recordings" in done.stderr
    assert "step 5 of 5: loss " in done.stderr
    assert "(best), 0:00 left" in done.stderr


def test_finished_training_says_again_how_it_ended(here: InProcess, place: Path) -> None:
    done = here(*arguments(place, place / "whole", "--resume"), "--quiet")
    assert done.status == 0, done.stderr
    assert done.stderr == ""
    assert done.text.startswith(f"{place / 'whole'}: WER ")


def test_resuming_with_something_else_is_refused(here: InProcess, place: Path) -> None:
    done = here(*arguments(place, place / "whole", "--resume", "--clip", "2"))
    assert done.status == 2
    assert "error[resume_refused]" in done.stderr
    assert "`clip` was 1.0 and is 2.0" in done.stderr


def test_missing_package_is_named_with_its_extra(
    here: InProcess, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "accelerate" else 1)
    done = here(*arguments(place, tmp_path / "out"))
    assert done.status == 2
    assert "training needs packages that are not installed: accelerate" in done.stderr
    assert "pip install 'stenopool[train]'" in done.stderr


def test_broken_package_is_named_with_its_extra(
    here: InProcess, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(extras, "import_module", broken)
    done = here(*arguments(place, tmp_path / "out"))
    assert done.status == 2
    assert "`torch`, which is installed and cannot be imported: OSError" in done.stderr
    assert "pip install 'stenopool[train]'" in done.stderr


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(place: Path, tmp_path: Path) -> None:
    """`accelerate launch`, with the same batches dealt out among two."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command = [*launch, "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    output = tmp_path / "out"
    more = ["--accumulate", "1", "--steps", "10"]
    done = ran([*command, "-m", "stenopool", *arguments(place, output, *more)], ENVIRONMENT)
    assert done.status == 0, done.stderr
    alone = tmp_path / "alone"
    done = ran([*STENO, *arguments(place, alone, "--steps", "10")], ENVIRONMENT)
    ours, theirs = (
        [line["loss"] for line in records(folder) if "loss" in line] for folder in (output, alone)
    )
    assert ours == pytest.approx(theirs, rel=0.05)  # each process draws its own masks
