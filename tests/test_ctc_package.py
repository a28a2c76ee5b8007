"""`model.tar.gz`: packed, unpacked, hostile; and served as SageMaker does it."""

from __future__ import annotations

import io
import os
import tarfile
import textwrap
from pathlib import Path

import httpx
import pytest

from commands import InProcess, samples
from ctc_models import write_model
from serving import served, wait_until_ready
from sounds import write_wav
from stenopool.errors import ModelDamaged, OutputUnwritable, StenoError, UsageError
from stenopool.models import Store
from stenopool.models.package import package, unpack
from stenopool.transcript import Transcript

FUNCTIONS = textwrap.dedent(
    """
    def predict_fn(data, model):
        return {"words": len(model.transcribe(data["path"], data["options"]).text.split())}
    """
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def test_archive_holds_the_model_at_its_root(model: Path, tmp_path: Path) -> None:
    code = tmp_path / "inference.py"
    code.write_text(FUNCTIONS, encoding="utf-8")
    (model / "optimizer.pt").write_bytes(b"not needed to transcribe")
    archive = tmp_path / "model.tar.gz"
    names = package(model, archive, [code])
    with tarfile.open(archive) as tar:
        assert tar.getnames() == names
        assert all(one.isreg() and one.mode == 0o644 and one.uid == 0 for one in tar)
    assert {"config.json", "model.safetensors", "vocab.json", "code/inference.py"} <= set(names)
    assert "optimizer.pt" not in names
    first = archive.read_bytes()
    os.utime(model / "config.json", (1, 1))
    package(model, archive, [code])
    assert archive.read_bytes() == first
    unpack(archive, tmp_path / "again")
    again = Store().resolve(tmp_path / "again")
    assert again.sha256 == Store().resolve(model).sha256
    assert (tmp_path / "again" / "code" / "inference.py").read_text() == FUNCTIONS


def test_what_cannot_be_packed(model: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with pytest.raises(UsageError, match="no file"):
        package(model, archive, [tmp_path / "inference.py"])
    (model / "vocab.json").unlink()
    with pytest.raises(ModelDamaged, match=r"vocab\.json"):
        package(model, archive)
    with pytest.raises(StenoError):
        package(write_model(tmp_path / "other"), tmp_path / "no" / "model.tar.gz")
    assert not archive.exists()


def hostile(name: str = "config.json", **changes: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        data = b"{}"
        member.size = len(data)
        for key, value in changes.items():
            setattr(member, key, value)
        tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return file.getvalue()


ARCHIVES = {
    "above": hostile("../evil"),
    "absolute": hostile("/tmp/evil"),  # noqa: S108
    "hidden above": hostile("code/../../evil"),
    "link": hostile(type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0),
    "hard link": hostile(type=tarfile.LNKTYPE, linkname="config.json", size=0),
    "device": hostile(type=tarfile.CHRTYPE, size=0),
    "no archive": b"hello",
    "cut": hostile()[:60],
    "empty": b"",
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archive_is_refused_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(ARCHIVES[name])
    with pytest.raises(ModelDamaged, match=r"model\.tar\.gz"):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.tar.gz"]


def test_folder_that_is_there_is_not_touched(model: Path, tmp_path: Path) -> None:
    package(model, tmp_path / "model.tar.gz")
    with pytest.raises(OutputUnwritable, match="already"):
        unpack(tmp_path / "model.tar.gz", model)


def test_archive_is_served_as_sagemaker_does(
    models_dir: Path, speech_wav: Path, model: Path, tmp_path: Path
) -> None:
    """Unpacked where SageMaker puts it: first without code, then with functions of one's own."""
    pytest.importorskip("openvino")
    package(model, tmp_path / "model.tar.gz")
    folder = tmp_path / "served"
    unpack(tmp_path / "model.tar.gz", folder)
    environment = {"STENO_MODELS_DIR": str(models_dir), "SM_MODEL_DIR": str(folder)}
    speech = write_wav(tmp_path / "a.wav", samples(speech_wav, 6), rate=48_000).read_bytes()
    (tmp_path / "one").mkdir()
    with served(tmp_path / "one", "--sagemaker", environment=environment) as server:
        wait_until_ready(server)
        answer = httpx.post(f"{server.url}/invocations", content=speech, timeout=60)
        found = Transcript.from_dict(answer.json())
        assert (found.model.name, found.model.engine) == ("served", "openvino")
        refused = httpx.post(
            f"{server.url}/invocations",
            content=speech,
            headers={"x-amzn-sagemaker-custom-attributes": '{"initial_prompt": "x"}'},
            timeout=60,
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_option")
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text(FUNCTIONS, encoding="utf-8")
    (tmp_path / "two").mkdir()
    with served(tmp_path / "two", "--sagemaker", environment=environment) as server:
        wait_until_ready(server)
        answer = httpx.post(f"{server.url}/invocations", content=speech, timeout=60)
        assert answer.json() == {"words": len(found.text.split())}


def test_commands_pack_and_unpack(here: InProcess, model: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    done = here("models", "package", model, "--output", archive)
    assert done.status == 0, done.stderr
    assert "model.safetensors" in done.stderr
    done = here("models", "unpack", archive, "--output", tmp_path / "out")
    assert done.status == 0, done.stderr
    assert (tmp_path / "out" / "config.json").read_bytes() == (model / "config.json").read_bytes()
    assert here("models", "unpack", archive, "--output", tmp_path / "out").status == 6
