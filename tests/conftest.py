"""Real weights and real speech for the tests, fetched once and kept in `.cache/`."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from commands import InProcess, Steno, load
from stenopool.models import Store

if TYPE_CHECKING:
    from pipelines import Postgres, ScriptedSteno, Stage
    from stenopool import Transcriber

ROOT = Path(__file__).parent.parent
NOBODY = 65534  # user id without rights

# What runs in the background may have been told to ignore these, and its children with it; the
# tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """A folder with verified `tiny.en` and `silero-vad`. Tests that damage files copy it."""
    folder = Path(os.environ.get("STENO_TEST_MODELS", ROOT / ".cache" / "models"))
    store = Store(folder)
    for name in ("silero-vad", "tiny.en"):
        store.pull(name)
    return folder


@pytest.fixture(scope="session")
def speech_wav() -> Path:
    """44 s of one reader, 48 kHz, 16 bit, mono: what the demo transcribes."""
    path: Path = load(ROOT / "examples" / "demo.py").speech()
    return path


@pytest.fixture(scope="session")
def transcriber(models_dir: Path) -> Transcriber:
    """`tiny.en`, loaded once for all tests."""
    from stenopool import Transcriber

    return Transcriber("tiny.en", store=Store(models_dir))


@pytest.fixture
def plain_user() -> Iterator[Path]:
    """An empty folder, and for the time of the test no more rights than an ordinary user has."""
    folder = Path(tempfile.mkdtemp(prefix="plain-user-"))
    folder.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(folder)


@pytest.fixture
def steno(models_dir: Path) -> Steno:
    """The command as its own process, with the models of the tests."""
    return Steno({"STENO_MODELS_DIR": str(models_dir)})


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    transcriber: Transcriber,
) -> InProcess:
    """The command in this process, with the model that is loaded already."""
    run = InProcess(monkeypatch, capfdbinary)
    run.use(transcriber)
    return run


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL server."""
    from pipelines import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database, of either kind."""
    from pipelines import sqlite_url

    if request.param == "sqlite":
        yield sqlite_url(tmp_path, "database.sqlite")
        return
    server: Postgres = request.getfixturevalue("postgres")
    yield server.url
    server.clear()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """An empty bucket and its SQLite database."""
    from pipelines import Stage, opened, sqlite_url

    (tmp_path / "bucket" / "input").mkdir(parents=True)
    url = sqlite_url(tmp_path)
    with opened(url) as jobs:
        yield Stage(tmp_path / "bucket", url, jobs)


@pytest.fixture
def scripted(tmp_path: Path) -> ScriptedSteno:
    """The command as its own process, with scripted workers; see `scripted_worker`."""
    from pipelines import ScriptedSteno

    return ScriptedSteno({}, tmp_path)


@pytest.fixture
def within(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> Iterator[InProcess]:
    """The command in this process, with scripted workers."""
    from pipelines import ScriptedSteno
    from stenopool.pipeline import process, supervisor
    from stenopool.settings import settings

    command = ScriptedSteno({}, tmp_path).worker
    made = partial(supervisor.Supervisor, command=command)
    monkeypatch.setattr(supervisor, "Supervisor", made)
    monkeypatch.setattr(process, "begin", partial(process.begin, command=command))
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.05)
    settings.cache_clear()
    yield InProcess(monkeypatch, capfdbinary)
    settings.cache_clear()
