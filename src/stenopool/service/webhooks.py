"""Webhooks: somebody's server is told that a job has ended, once at least.

They are as https://www.standardwebhooks.com says: `webhook-id` is the same in each attempt,
`webhook-signature` is `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`. The text of a
recording is never sent. Every attempt is in the database before it is made, so none is forgotten
when the server ends, and several servers share them. Where clocks differ, a delivery may be made
twice.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from stenopool.bucket import Key
from stenopool.errors import StenoError, UnknownName, UsageError
from stenopool.pipeline.database import deliveries as table
from stenopool.pipeline.events import event
from stenopool.service.remote import Remote
from stenopool.text import encodable

WAITING, DELIVERED, GIVEN_UP = "waiting", "delivered", "given_up"
AT_ONCE = 16
AT_ONCE_TO_ONE = 4  # URL, so that one that is slow holds nobody up
IN_HAND_SECONDS = 60.0  # longer than an attempt takes
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 3600.0
PATIENCE_SECONDS = 86_400.0
LOOK_SECONDS = 0.5

_GONE = 410  # the receiver wants no more
_PREFIX = "whsec_"
_LEAST_SECRET, _LONGEST_SECRET = 24, 64  # bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a submission has ended.

    Attributes:
        seconds: of audio that were transcribed.
    """

    id: str
    key: Key
    state: str
    error: Mapping[str, Any] | None
    seconds: float

    def body(self) -> str:
        """What is told."""
        data = {
            "id": self.id,
            "key": encodable(self.key),
            "state": self.state,
            "duration": self.seconds or None,
            "error": self.error,
            "links": links(self.id),
        }
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        return json.dumps({"type": f"job.{self.state}", "timestamp": moment, "data": data})


@dataclass(frozen=True, slots=True)
class Delivery:
    """Something that is to be told; the attributes are the columns of `steno_webhooks`."""

    id: str
    submission: str
    url: str
    body: str
    state: str
    attempts: int
    due: float
    begun: float
    status: int | None
    error: str


def links(id: str) -> dict[str, str]:
    """Where more about a job can be had."""
    return {name: f"/v1/jobs/{id}{path}" for name, path in _PATHS.items()}


_PATHS = {"self": "", "events": "/events", "result": "/result"}


def planned(submission: str, url: str, outcome: Outcome) -> dict[str, Any]:
    """The row of a new delivery."""
    now = time.time()
    return {
        "id": f"msg_{secrets.token_hex(16)}",
        "submission": submission,
        "url": url,
        "body": outcome.body(),
        "state": WAITING,
        "attempts": 0,
        "due": now,
        "begun": now,
        "status": None,
        "error": "",
    }


def secrets_of(text: str) -> list[bytes]:
    """The secrets in a setting.

    Raises:
        UsageError: one is none.
    """
    return [_secret(one) for one in text.split()]


def signed(delivery: Delivery, keys: Sequence[bytes], now: float) -> dict[str, str]:
    """The headers of an attempt."""
    stamp = str(int(now))
    content = f"{delivery.id}.{stamp}.{delivery.body}".encode()
    digests = (hmac.new(key, content, hashlib.sha256).digest() for key in keys)
    return {
        "content-type": "application/json",
        "webhook-id": delivery.id,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in digests),
    }


class Webhooks:
    """The deliveries in one database, and what makes them."""

    def __init__(self, engine: sa.Engine, remote: Remote, keys: Sequence[bytes]) -> None:
        self._engine = engine
        self._remote = remote
        self._keys = keys
        self._underway: dict[asyncio.Task[None], str] = {}  # and where it goes

    @property
    def can_sign(self) -> bool:
        """Whether there is a secret."""
        return bool(self._keys)

    def last(self, submissions: Sequence[str]) -> dict[str, Delivery]:
        """The last delivery of each submission that has one."""
        query = sa.select(table).where(table.c.submission.in_(submissions)).order_by(table.c.begun)
        with self._engine.connect() as connection:
            found = [Delivery(**row._mapping) for row in connection.execute(query)]
        return {one.submission: one for one in found}

    def replay(self, submission: str) -> None:
        """Tell again what was told last.

        Raises:
            UnknownName: nothing was.
        """
        found = self.last([submission]).get(submission)
        if found is None:
            raise UnknownName(
                f"nothing was to be told of job `{submission}`",
                do="Submit it with `webhook_url`, and wait until it has ended",
            )
        now = time.time()
        fresh = {"state": WAITING, "attempts": 0, "due": now, "begun": now}
        with self._engine.begin() as connection:
            connection.execute(sa.update(table).where(table.c.id == found.id).values(fresh))

    def take(self, busy: Counter[str]) -> list[Delivery]:
        """Deliveries that are due and are now in the hands of this server.

        Args:
            busy: how many are under way to each URL.
        """
        if busy.total() >= AT_ONCE or not self._keys:
            return []
        now = time.time()
        due = sa.select(table).where(
            table.c.state == WAITING,
            table.c.due <= now,
            table.c.url.not_in([url for url, count in busy.items() if count >= AT_ONCE_TO_ONE]),
        )
        due = due.order_by(table.c.due).limit(AT_ONCE - busy.total())
        with self._engine.connect() as connection:
            rows = connection.execute(due).all()
        taken = []
        for row in rows:
            one = Delivery(**row._mapping)
            change: dict[str, Any] = {"due": now + IN_HAND_SECONDS, "attempts": one.attempts + 1}
            if busy[one.url] < AT_ONCE_TO_ONE and self._change(one, change):
                busy[one.url] += 1
                taken.append(replace(one, **change))
        return taken

    async def run(self) -> None:
        """Make deliveries, for as long as the server runs."""
        while True:
            try:
                busy = Counter(self._underway.values())
                for one in await asyncio.to_thread(self.take, busy):
                    task = asyncio.create_task(self._attempt(one))
                    self._underway[task] = one.url
                    task.add_done_callback(self._underway.pop)
            except sa.exc.DBAPIError as error:
                event("trouble", logging.WARNING, code="database", message=str(error.orig))
            await asyncio.sleep(LOOK_SECONDS)

    async def stop(self) -> None:
        """End attempts that are under way; they are made again."""
        underway = list(self._underway)
        for task in underway:
            task.cancel()
        await asyncio.gather(*underway, return_exceptions=True)

    async def _attempt(self, one: Delivery) -> None:
        status, problem = None, ""
        try:
            headers = signed(one, self._keys, time.time())
            status = await self._remote.post(one.url, one.body, headers)
        except StenoError as error:
            problem = error.what
        change = after_attempt(one, status, problem, time.time())
        try:
            await asyncio.to_thread(self._change, one, change)
        except sa.exc.DBAPIError as error:  # it is made again when its time in hand is over
            event("trouble", logging.WARNING, code="database", message=str(error.orig))
        event(
            "webhook",
            id=one.id,
            job=one.submission,
            attempt=one.attempts,
            status=status,
            state=change.get("state", WAITING),
            problem=problem,
        )

    def _change(self, one: Delivery, values: Mapping[str, Any]) -> bool:
        """Change one that is as it was when it was read; False if it is not."""
        same = table.c.id == one.id, table.c.due == one.due, table.c.state == one.state
        with self._engine.begin() as connection:
            return connection.execute(sa.update(table).where(*same).values(values)).rowcount == 1


def after_attempt(one: Delivery, status: int | None, problem: str, now: float) -> dict[str, Any]:
    """What an attempt changes in a delivery.

    Args:
        status: of the answer; None if there was none.
    """
    change: dict[str, Any] = {"status": status, "error": problem}
    if status is not None and 200 <= status < 300:
        return {**change, "state": DELIVERED}
    if status == _GONE or now - one.begun > PATIENCE_SECONDS:
        return {**change, "state": GIVEN_UP}
    return {**change, "due": now + pause(one.attempts)}


def pause(attempts: int) -> float:
    """Seconds until the next attempt: each pause is four times the one before, or nearly."""
    usual = min(LONGEST_PAUSE, FIRST_PAUSE * 4.0 ** min(attempts - 1, 16))
    return usual * random.uniform(0.8, 1.2)  # noqa: S311  only to part those who wait


def _secret(text: str) -> bytes:
    try:
        found = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _no_secret() from error
    if not text.startswith(_PREFIX) or not _LEAST_SECRET <= len(found) <= _LONGEST_SECRET:
        raise _no_secret()
    return found


def _no_secret() -> UsageError:
    return UsageError(
        "`STENO_WEBHOOK_SECRET` is no secret",
        do='Make one: `echo "whsec_$(openssl rand -base64 32)"`',
    )
