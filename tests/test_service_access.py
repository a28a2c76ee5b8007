from __future__ import annotations

from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa
from starlette.requests import HTTPConnection

from stenopool.errors import StenoError, UnknownName
from stenopool.pipeline.database import open_database
from stenopool.service import access as module
from stenopool.service.access import Access, NotAllowed, NotAuthenticated, OverQuota


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return open_database(f"sqlite:///{tmp_path / 'jobs.sqlite'}")


@pytest.fixture
def access(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Access:
    monkeypatch.setattr(module, "KNOWN_SECONDS", 0.0)
    return Access(engine)


def connection(secret: str = "", **headers: str) -> HTTPConnection:
    given = {"host": "127.0.0.1:8000", **headers}
    if secret:
        given["authorization"] = f"Bearer {secret}"
    raw = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
    return HTTPConnection({"type": "http", "headers": raw})


def admitted(access: Access, given: HTTPConnection, scope: str = "transcribe") -> str:
    return anyio.run(access.admit, given, scope).id


def test_without_keys_only_this_machine_is_answered(access: Access) -> None:
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000", "LOCALHOST:1"):
        assert admitted(access, connection(host=host)) == "open"
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "",
        "localhost.evil:80",
        "[::1",
        "localhost@b",
    ):
        with pytest.raises(NotAuthenticated):
            admitted(access, connection(host=host))


def test_pages_from_elsewhere_are_refused_by_an_open_server(access: Access) -> None:
    assert admitted(access, connection(origin="http://localhost:3000")) == "open"
    for origin in ("https://evil.example", "null", "http://[", "file://"):
        with pytest.raises(NotAuthenticated):
            admitted(access, connection(origin=origin))


def test_key_opens_what_its_scopes_say(access: Access) -> None:
    made, secret = access.create("team", ("jobs",))
    assert admitted(access, connection(secret), "jobs") == made.id
    with pytest.raises(NotAllowed):
        admitted(access, connection(secret), "transcribe")
    for wrong in ("", "steno-wrong", secret[:-1], f"{secret} "):
        if wrong.strip() == secret:
            continue
        with pytest.raises(NotAuthenticated):
            admitted(access, connection(wrong), "jobs")
    with pytest.raises(UnknownName):
        access.create("team", ("everything",))


def test_revoked_key_opens_nothing_and_does_not_open_the_server(access: Access) -> None:
    made, secret = access.create("team")
    access.revoke(made.id)
    for given in (connection(secret), connection()):
        with pytest.raises(NotAuthenticated):
            admitted(access, given)
    with pytest.raises(UnknownName):
        access.revoke(made.id)


def test_secrets_are_not_kept(access: Access, tmp_path: Path) -> None:
    _, secret = access.create("team")
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert secret.encode() not in kept
    assert secret not in repr(access.all())


def test_requests_and_audio_are_limited(access: Access) -> None:
    _, secret = access.create("team", requests_per_minute=2)
    for _ in range(2):
        admitted(access, connection(secret))
    with pytest.raises(OverQuota):
        admitted(access, connection(secret))
    _, other = access.create("other", audio_minutes_per_day=1)
    who = anyio.run(access.admit, connection(other), "transcribe")
    anyio.run(access.used, who, 59.0)
    admitted(access, connection(other))
    anyio.run(access.used, who, 2.0)
    with pytest.raises(OverQuota) as caught:
        admitted(access, connection(other))
    assert isinstance(caught.value, StenoError)
    assert caught.value.transient
