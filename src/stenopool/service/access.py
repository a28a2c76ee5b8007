"""Who may do what, and how much: API keys, kept as hashes.

Without any key the server is open, but to this machine only.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import Request, WebSocket
from starlette.requests import HTTPConnection

from stenopool.errors import UnknownName, UsageError
from stenopool.pipeline.database import keys, usage

SCOPES = ("transcribe", "jobs", "realtime", "metrics")
PREFIX = "steno-"
AMAZON = "AWS4-HMAC-SHA256"
KNOWN_SECONDS = 5.0  # a revoked key is known for so long
DAY = 86_400.0
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


class NotAuthenticated(UsageError):  # noqa: N818  the names say what happened
    """No key, or one that is not known."""

    code: ClassVar[str] = "not_authenticated"


class NotAllowed(UsageError):  # noqa: N818
    """The key may not do this."""

    code: ClassVar[str] = "not_allowed"


class OverQuota(UsageError):  # noqa: N818
    """The key has used up what it may use."""

    code: ClassVar[str] = "over_quota"
    transient: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it is kept: not the key itself.

    Attributes:
        scopes: what it may do.
        requests_per_minute, audio_minutes_per_day: what it may use; 0 is without limit.
    """

    id: str
    name: str
    hash: str
    scopes: tuple[str, ...]
    requests_per_minute: int
    audio_minutes_per_day: float
    created: float
    revoked: float | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks; `key` is None where the server is open."""

    id: str
    key: Key | None = None


class Access:
    """The keys in one database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._known: dict[str, Key] = {}
        self._read = 0.0
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted

    def create(
        self,
        name: str,
        scopes: tuple[str, ...] = SCOPES,
        requests_per_minute: int = 0,
        audio_minutes_per_day: float = 0.0,
    ) -> tuple[Key, str]:
        """Make a key; gives it as it is kept, and the secret, which nobody can see again.

        Raises:
            UnknownName: no such scope.
        """
        for scope in scopes:
            if scope not in SCOPES:
                raise UnknownName(f"no scope `{scope}`", do=f"Use one of: {', '.join(SCOPES)}")
        secret = PREFIX + secrets.token_urlsafe(32)
        made = Key(
            secrets.token_hex(6),
            name,
            _hash(secret),
            scopes,
            requests_per_minute,
            audio_minutes_per_day,
            time.time(),
            None,
        )
        values = {field: getattr(made, field) for field in Key.__slots__}
        with self._engine.begin() as connection:
            connection.execute(sa.insert(keys).values({**values, "scopes": list(scopes)}))
        return made, secret

    def all(self) -> list[Key]:
        """Every key, revoked ones too, the newest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(keys).order_by(keys.c.created.desc())).all()
        return [_key(row) for row in rows]

    def revoke(self, id: str) -> None:
        """Let a key open nothing any more.

        Raises:
            UnknownName: there is no such key.
        """
        change = sa.update(keys).where(keys.c.id == id, keys.c.revoked.is_(None))
        with self._engine.begin() as connection:
            if connection.execute(change.values(revoked=time.time())).rowcount != 1:
                raise UnknownName(f"no key `{id}`", do="See `steno keys list`")

    def is_open(self) -> bool:
        """Whether there is no key at all, not even a revoked one."""
        with self._engine.connect() as connection:
            return connection.execute(sa.select(keys.c.id).limit(1)).first() is None

    async def admit(self, connection: HTTPConnection, scope: str) -> Caller:
        """Who asks, if they may.

        Raises:
            NotAuthenticated, NotAllowed, OverQuota: they may not.
        """
        known = await asyncio.to_thread(self._current)
        if not known and await asyncio.to_thread(self.is_open):
            _refuse_strangers(connection)
            return Caller("open")
        key = known.get(_hash(_secret(connection)))
        if key is None:
            raise NotAuthenticated(
                "no valid API key", do="Send `Authorization: Bearer KEY`; see `steno keys create`"
            )
        if scope not in key.scopes:
            raise NotAllowed(f"this key may not `{scope}`", do="Use a key with this scope")
        self._take_token(key)
        await asyncio.to_thread(self._refuse_over_quota, key)
        return Caller(key.id, key)

    async def used(self, who: Caller, seconds: float) -> None:
        """Note that audio was transcribed."""
        if who.key is not None:
            await asyncio.to_thread(self._add, who.key.id, seconds)

    def _current(self) -> dict[str, Key]:
        if time.monotonic() - self._read > KNOWN_SECONDS or not self._known:
            self._known = {one.hash: one for one in self.all() if one.revoked is None}
            self._read = time.monotonic()
        return self._known

    def _take_token(self, key: Key) -> None:
        if not key.requests_per_minute:
            return
        now = time.monotonic()
        most = float(key.requests_per_minute)
        tokens, since = self._buckets.get(key.id, (most, now))
        tokens = min(most, tokens + (now - since) * most / 60)
        if tokens < 1:
            raise OverQuota("too many requests with this key", do="Wait a minute")
        self._buckets[key.id] = (tokens - 1, now)

    def _refuse_over_quota(self, key: Key) -> None:
        if not key.audio_minutes_per_day:
            return
        query = sa.select(usage.c.seconds).where(usage.c.key == key.id, usage.c.day == _today())
        with self._engine.connect() as connection:
            used = connection.execute(query).scalar() or 0.0
        if used >= 60 * key.audio_minutes_per_day:
            raise OverQuota("this key has used up its audio of today", do="Wait until tomorrow")

    def _add(self, key: str, seconds: float) -> None:
        with self._engine.begin() as connection:
            note_usage(connection, key, seconds)


def note_usage(connection: sa.Connection, key: str, seconds: float) -> None:
    """Note that audio was transcribed for the owner of a key."""
    mine = sa.and_(usage.c.key == key, usage.c.day == _today())
    more = sa.update(usage).where(mine).values(seconds=usage.c.seconds + seconds)
    if connection.execute(more).rowcount == 0:
        row = {"key": key, "day": _today(), "seconds": seconds}
        connection.execute(sa.insert(usage).values(row))


def caller(scope: str) -> Callable[[Request], Coroutine[Any, Any, Caller]]:
    """A dependency: who asks, if they have a key with this scope.

    With `guard.Door` they were asked before the body was read.
    """

    async def admitted(request: Request) -> Caller:
        known: Caller | None = getattr(request.state, "caller", None)
        access: Access = request.app.state.access
        return known or await access.admit(request, scope)

    admitted.scope = scope  # type: ignore[attr-defined]
    return admitted


def _secret(connection: HTTPConnection) -> str:
    kind, _, secret = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return secret.strip()
    if kind == AMAZON:  # AWS's clients: the key is their access key, the signature is not looked at
        return secret.partition("Credential=")[2].partition("/")[0]
    if isinstance(connection, WebSocket):  # browsers cannot set headers there
        for one in connection.headers.get("sec-websocket-protocol", "").split(","):
            if one.strip().startswith("openai-insecure-api-key."):
                return one.strip().partition(".")[2]
    return ""


def _refuse_strangers(connection: HTTPConnection) -> None:
    """An open server answers to this machine only: to no name that a web page made up, and to no
    page from elsewhere that this machine's browser shows."""
    places = [f"//{connection.headers.get('host', '')}"]
    if origin := connection.headers.get("origin"):
        places.append(origin)
    if any(_host_of(place) not in _HERE for place in places):
        raise NotAuthenticated(
            "this server has no keys and answers to this machine only",
            do="Make a key with `steno keys create`",
        )


def _host_of(place: str) -> str:
    try:
        return urlsplit(place).hostname or ""
    except ValueError:
        return ""


def _hash(secret: str) -> str:
    # Secrets have 256 random bits: there is nothing to slow a guesser down for.
    return hashlib.sha256(secret.encode()).hexdigest()


def _today() -> int:
    return int(time.time() // DAY)


def _key(row: sa.Row[Any]) -> Key:
    return Key(
        row.id,
        row.name,
        row.hash,
        tuple(row.scopes),
        row.requests_per_minute,
        row.audio_minutes_per_day,
        row.created,
        row.revoked,
    )
