from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from commands import InProcess, Ran
from stenopool.cli import doctor
from stenopool.engines import choose
from stenopool.models import Store

Doctor = Callable[..., Ran]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, models_dir: Path) -> Store:
    store = Store(models_dir, offline=True)
    monkeypatch.setattr(doctor, "store", lambda: store)
    return store


@pytest.fixture
def examine(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], store: Store
) -> Doctor:
    run = InProcess(monkeypatch, capfdbinary)
    return lambda *arguments: run("doctor", "--model", "tiny.en", *arguments)


def findings(run: Ran) -> dict[str, tuple[str, str]]:
    return {one["subject"]: (one["status"], one["detail"]) for one in run.lines}


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    def lookup(name: str) -> str:
        if name == package:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", lookup)


def test_healthy_machine_is_status_0(examine: Doctor) -> None:
    run = examine("--json")
    found = findings(run)
    assert run.status == 0
    assert run.stderr == ""
    for subject in ("python", *doctor.PACKAGES, "cpu", "engine", "model tiny.en"):
        assert found[subject][0] == "ok", subject
    assert found["models folder"][0] in {"ok", "low"}
    assert found["av"] == ("ok", version("av"))
    assert "verified" in found["model tiny.en"][1]
    assert "verified" in found["model silero-vad"][1]
    assert found["engine"][1].startswith(f"{choose().engine}, ")


def test_report_for_people_has_a_line_for_each_finding(examine: Doctor) -> None:
    found = findings(examine("--json"))
    lines = examine().text.splitlines()
    assert len(lines) == len(found)
    for line, (subject, (status, detail)) in zip(lines, found.items(), strict=True):
        assert line.startswith(status.ljust(8) + subject)
        if subject != "models folder":  # free space changes
            assert line.endswith(detail)
    assert (
        len({line.index(found[subject][1][:9]) for line, subject in zip(lines, found, strict=True)})
        == 1
    )


@pytest.mark.parametrize("package", doctor.PACKAGES)
def test_missing_package_is_an_error_with_the_cure(
    examine: Doctor, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    without(monkeypatch, package)
    run = examine("--json")
    status, detail = findings(run)[package]
    assert run.status == 5
    assert status == "error"
    assert "pip install" in detail


@pytest.mark.parametrize("package", doctor.OPTIONAL)
def test_missing_optional_package_is_no_error(
    examine: Doctor, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    without(monkeypatch, package)
    run = examine("--json")
    status, detail = findings(run)[package]
    assert run.status == 0
    assert status == "missing"
    assert "pip install 'stenopool[" in detail


def test_extras_that_it_names_exist() -> None:
    pyproject = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert doctor.OPTIONAL
    for use in doctor.OPTIONAL.values():
        extra = use.partition("stenopool[")[2].partition("]")[0]
        assert f"\n{extra} = [" in pyproject


def test_model_that_is_not_here_is_no_error(examine: Doctor) -> None:
    run = examine("--json", "--model", "large-v3")
    assert run.status == 0
    status, detail = findings(run)["model large-v3"]
    assert status == "missing"
    assert "steno models pull large-v3" in detail


def test_damaged_model_is_an_error(
    examine: Doctor, monkeypatch: pytest.MonkeyPatch, models_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(models_dir / "silero-vad", tmp_path / "silero-vad")
    (tmp_path / "silero-vad" / "silero_vad.onnx").write_bytes(b"damaged")
    monkeypatch.setattr(doctor, "store", lambda: Store(tmp_path, offline=True))
    run = examine("--json")
    status, detail = findings(run)["model silero-vad"]
    assert run.status == 4
    assert status == "error"
    assert "--force" in detail


@pytest.mark.parametrize("name", ["./my model", "my model"])
def test_folder_of_a_model_is_checked_as_transcribing_would(
    examine: Doctor,
    monkeypatch: pytest.MonkeyPatch,
    models_dir: Path,
    tmp_path: Path,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model").symlink_to(models_dir.resolve() / "tiny.en")
    run = examine("--json", "--model", name)
    status, detail = findings(run)[f"model {name}"]
    assert (run.status, status) == (0, "ok")
    assert Store(models_dir).verify("tiny.en").sha256[:12] in detail
    assert "verified" not in detail  # nobody said what it should be


def test_incomplete_folder_of_a_model_is_an_error(examine: Doctor, tmp_path: Path) -> None:
    run = examine("--json", "--model", str(tmp_path))
    status, detail = findings(run)[f"model {tmp_path}"]
    assert (run.status, status) == (4, "error")
    assert "`model.bin`" in detail


def test_unknown_model_is_an_error(examine: Doctor) -> None:
    run = examine("--json", "--model", "tiny.enn")
    assert run.status == 2
    status, detail = findings(run)["model tiny.enn"]
    assert status == "error"
    assert "`tiny.en`" in detail


def test_models_folder_that_does_not_exist_yet_is_measured_where_it_will_be(
    examine: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "store", lambda: Store(tmp_path / "not" / "yet", offline=True))
    run = examine("--json")
    status, detail = findings(run)["models folder"]
    assert status in {"ok", "low"}
    assert str(tmp_path / "not" / "yet") in detail
    assert "GB free" in detail
    assert not (tmp_path / "not").exists()


def test_little_space_is_told(examine: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10**9))
    assert findings(examine("--json"))["models folder"][0] == "low"


def test_models_folder_that_may_not_be_written_is_an_error(
    examine: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    run = examine("--json")
    assert run.status == 6
    status, detail = findings(run)["models folder"]
    assert status == "error"
    assert "STENO_MODELS_DIR" in detail
