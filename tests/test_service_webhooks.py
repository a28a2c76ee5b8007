"""Webhooks: signed as Standard Webhooks says, delivered at least once, whoever fails meanwhile."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from houses import Call, House, Receiver, house, receiver, sound
from pipelines import Stage, opened, wait_for
from stenopool.errors import UsageError
from stenopool.pipeline.database import deliveries
from stenopool.pipeline.pool import Limits
from stenopool.service import remote, webhooks
from stenopool.service.remote import Remote
from stenopool.service.webhooks import (
    DELIVERED,
    FIRST_PAUSE,
    GIVEN_UP,
    LONGEST_PAUSE,
    PATIENCE_SECONDS,
    WAITING,
    Delivery,
    Webhooks,
    after_attempt,
    pause,
    secrets_of,
    signed,
)
from stenopool.settings import settings

KEY, OLD_KEY = bytes(range(32)), b"x" * 24
SECRETS = " ".join(f"whsec_{base64.b64encode(one).decode()}" for one in (KEY, OLD_KEY))
NOBODY = Limits(most=0)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """There are secrets, and receivers may be on this machine."""
    monkeypatch.setenv("STENO_WEBHOOK_SECRET", SECRETS)
    monkeypatch.setenv("STENO_ALLOW_PRIVATE_URLS", "1")
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short."""
    monkeypatch.setattr(webhooks, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(webhooks, "LONGEST_PAUSE", 0.2)


def is_signed(call: Call, key: bytes) -> bool:
    """Whether a receiver that knows nothing of this project would take it."""
    signature = base64.b64encode(
        hmac.digest(
            key,
            b".".join(
                [
                    call.headers["webhook-id"].encode(),
                    call.headers["webhook-timestamp"].encode(),
                    call.body,
                ]
            ),
            hashlib.sha256,
        )
    ).decode()
    return f"v1,{signature}" in call.headers["webhook-signature"].split(" ")


def submit(home: House, there: Receiver, **more: Any) -> str:
    """A job of which the receiver is told; gives its id."""
    query = {"webhook_url": f"{there.url}/hook", **more}
    return str(home.post(content=sound(), params=query)["id"])


def cancelled(home: House, there: Receiver) -> str:
    """A job that has ended, in the cheapest way there is."""
    id = submit(home, there)
    home.post(f"/{id}/cancel")
    return id


def state(home: House, id: str) -> str:
    return str(home.get(f"/{id}")["webhook"]["state"])


def test_receiver_is_told_of_the_end_and_never_of_the_text(stage: Stage, there: Receiver) -> None:
    with house(stage) as home:
        id = submit(home, there)
        assert home.get(f"/{id}")["webhook"] == {"url": f"{there.url}/hook", "state": "planned"}
        assert home.ended(id)["state"] == "done"
        wait_for(lambda: state(home, id) == DELIVERED)
        shown = home.get(f"/{id}")["webhook"]
        text = home.call("GET", f"/{id}/result", params={"format": "txt"}).text.strip()
    (call,) = there.calls
    assert (shown["attempts"], shown["status"]) == (1, 204)
    assert shown["id"] == call.headers["webhook-id"]
    assert call.path == "/hook"
    assert call.headers["content-type"] == "application/json"
    assert set(call.data) == {"type", "timestamp", "data"}
    assert call.data["type"] == "job.done"
    assert call.data["data"] == {
        "id": id,
        "key": call.data["data"]["key"],
        "state": "done",
        "duration": 1.0,
        "error": None,
        "links": {
            "self": f"/v1/jobs/{id}",
            "events": f"/v1/jobs/{id}/events",
            "result": f"/v1/jobs/{id}/result",
        },
    }
    assert text == "s0"
    assert b"s0" not in call.body.replace(id.encode(), b"").replace(
        call.data["data"]["key"].encode(), b""
    )


def test_every_end_is_told_with_its_reason(stage: Stage, there: Receiver) -> None:
    with house(stage) as home:
        bad = home.post(content=b"bad", params={"webhook_url": there.url})["id"]
        lost = home.post(json={"url": f"{there.url}/missing", "webhook_url": there.url})["id"]
        gone = cancelled(home, there)
        wait_for(lambda: len(there.ids) == 3)
    told = {one.data["data"]["id"]: one.data for one in there.calls if "webhook-id" in one.headers}
    assert {id: one["type"] for id, one in told.items()} == {
        bad: "job.failed",
        lost: "job.failed",
        gone: "job.cancelled",
    }
    assert told[bad]["data"]["error"]["code"] == "not_media"
    assert told[lost]["data"]["error"]["code"] == "url_failed"
    assert told[gone]["data"]["error"] is None


def test_signatures_are_those_of_all_secrets(stage: Stage, there: Receiver) -> None:
    with house(stage, limits=NOBODY) as home:
        cancelled(home, there)
        wait_for(lambda: there.calls)
    (call,) = there.calls
    assert is_signed(call, KEY)
    assert is_signed(call, OLD_KEY)
    assert not is_signed(call, b"another")
    assert not is_signed(replace(call, body=call.body + b" "), KEY)
    assert abs(int(call.headers["webhook-timestamp"]) - time.time()) < 60


def test_signature_is_that_of_the_specification() -> None:
    # The example of the reference libraries of Standard Webhooks.
    delivery = row(id="msg_p5jXN8AQM9LWM0D4loKWxJek", body='{"test": 2432232314}')
    (key,) = secrets_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed(delivery, [key], 1614265330.0)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.usefixtures("hasty")
def test_receiver_that_fails_is_told_again_under_the_same_id(stage: Stage) -> None:
    with receiver(500, 302, 404) as there, house(stage, limits=NOBODY) as home:
        id = cancelled(home, there)
        wait_for(lambda: state(home, id) == DELIVERED)
        assert home.get(f"/{id}")["webhook"]["attempts"] == 4
    assert len(there.calls) == 4
    assert len(set(there.ids)) == 1
    assert len({one.body for one in there.calls}) == 1
    assert all(is_signed(one, KEY) for one in there.calls)


@pytest.mark.usefixtures("hasty")
def test_receiver_that_is_away_is_told_when_it_is_back(stage: Stage, there: Receiver) -> None:
    with receiver() as away:
        pass
    with house(stage, limits=NOBODY) as home:
        id = cancelled(home, away)
        wait_for(lambda: home.get(f"/{id}")["webhook"].get("attempts", 0) >= 2)
        shown = home.get(f"/{id}")["webhook"]
        assert (shown["state"], shown["status"]) == (WAITING, None)
        assert "connect" in shown["error"].lower()
        with stage.jobs.engine.begin() as connection:
            connection.execute(sa.update(deliveries).values(url=there.url))
        wait_for(lambda: state(home, id) == DELIVERED)


def test_delivery_survives_a_restart(stage: Stage) -> None:
    with receiver(500) as there:
        with house(stage, limits=NOBODY) as home:
            id = cancelled(home, there)
            wait_for(lambda: home.get(f"/{id}")["webhook"].get("status") == 500)
        due_now(stage)
        with house(stage, limits=NOBODY) as home:
            wait_for(lambda: state(home, id) == DELIVERED)
        assert len(there.calls) == 2
        assert len(set(there.ids)) == 1


def due_now(stage: Stage) -> None:
    """As if the pause were over."""
    with stage.jobs.engine.begin() as connection:
        connection.execute(sa.update(deliveries).values(due=0.0))


def test_attempt_that_was_cut_off_is_made_again(stage: Stage, there: Receiver) -> None:
    there.pause = 2.0
    with house(stage, limits=NOBODY) as home:
        id = cancelled(home, there)
        wait_for(lambda: there.calls)
    there.pause = 0.0
    assert row_of(stage).state == WAITING
    assert row_of(stage).due > time.time() + 30  # it is in the hands of the server that ended
    due_now(stage)
    with house(stage, limits=NOBODY) as home:
        wait_for(lambda: state(home, id) == DELIVERED)
    assert len(there.ids) == 2
    assert len(set(there.ids)) == 1


def row_of(stage: Stage) -> Any:
    with stage.jobs.engine.connect() as connection:
        return connection.execute(sa.select(deliveries)).one()


def test_end_that_no_server_saw_is_told_by_the_next(stage: Stage, there: Receiver) -> None:
    with house(stage, limits=NOBODY) as home:
        id = submit(home, there)
        job = home.get(f"/{id}")["job"]
    stage.jobs.cancel(job)
    with house(stage, limits=NOBODY) as home:
        wait_for(lambda: state(home, id) == DELIVERED)
    assert len(there.calls) == 1


def test_servers_do_not_deliver_the_same(tmp_path: Path, there: Receiver) -> None:
    there.pause = 0.2
    with (
        staged(tmp_path) as one,
        staged(tmp_path) as other,
        house(one, limits=NOBODY) as first,
        house(other, limits=NOBODY) as second,
    ):
        ids = [submit(first, there) for _ in range(20)]
        for id in ids:
            first.post(f"/{id}/cancel")
        wait_for(lambda: all(state(second, id) == DELIVERED for id in ids))
    assert len(there.calls) == 20
    assert len(set(there.ids)) == 20


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    (folder / "bucket" / "input").mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{folder / 'jobs.sqlite'}"
    with opened(url) as jobs:
        yield Stage(folder / "bucket", url, jobs)


def test_slow_receiver_holds_nobody_up(stage: Stage, there: Receiver) -> None:
    with house(stage, limits=NOBODY) as home, receiver() as slow:
        slow.gate.clear()
        for _ in range(webhooks.AT_ONCE + 4):
            cancelled(home, slow)
        id = cancelled(home, there)
        wait_for(lambda: state(home, id) == DELIVERED, remote.POST_SECONDS)
        assert len(slow.calls) == webhooks.AT_ONCE_TO_ONE


def test_delivery_is_replayed_under_the_same_id(stage: Stage, there: Receiver) -> None:
    with house(stage, limits=NOBODY) as home:
        id = submit(home, there)
        assert home.call("POST", f"/{id}/webhook/replay").status_code == 404  # nothing to tell yet
        home.post(f"/{id}/cancel")
        wait_for(lambda: state(home, id) == DELIVERED)
        assert home.post(f"/{id}/webhook/replay")["webhook"]["state"] == WAITING
        wait_for(lambda: len(there.calls) == 2)
        wait_for(lambda: state(home, id) == DELIVERED)
    assert len(set(there.ids)) == 1
    assert there.calls[0].body == there.calls[1].body
    assert is_signed(there.calls[1], KEY)


def test_end_after_a_retry_is_told_under_an_id_of_its_own(stage: Stage, there: Receiver) -> None:
    with house(stage, limits=NOBODY) as home:
        id = cancelled(home, there)
        wait_for(lambda: state(home, id) == DELIVERED)
        home.post(f"/{id}/retry")
        home.post(f"/{id}/cancel")
        wait_for(lambda: len(there.calls) == 2)
    assert len(set(there.ids)) == 2


def test_what_was_deleted_is_not_told(stage: Stage, there: Receiver) -> None:
    with receiver(500) as failing, house(stage, limits=NOBODY) as home:
        id = cancelled(home, failing)
        wait_for(lambda: home.get(f"/{id}")["webhook"].get("status") == 500)
        assert home.call("DELETE", f"/{id}").status_code == 204
    with stage.jobs.engine.connect() as connection:
        assert connection.execute(sa.select(deliveries)).all() == []


def test_internal_receiver_is_not_told(
    stage: Stage, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STENO_ALLOW_PRIVATE_URLS", "0")
    settings.cache_clear()
    with house(stage, limits=NOBODY) as home:
        id = cancelled(home, there)
        wait_for(lambda: home.get(f"/{id}")["webhook"].get("error"))
        assert "public internet" in home.get(f"/{id}")["webhook"]["error"]
    assert there.calls == []


def row(**changes: Any) -> Delivery:
    usual = Delivery("msg_1", "1", "http://x", "{}", WAITING, 1, 0.0, 0.0, None, "")
    return replace(usual, **changes)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_success_is_one(status: int) -> None:
    assert after_attempt(row(), status, "", 1.0)["state"] == DELIVERED


@pytest.mark.parametrize("status", [None, 100, 301, 302, 400, 401, 404, 408, 429, 500, 503])
def test_anything_else_is_tried_again(status: int | None) -> None:
    change = after_attempt(row(attempts=3), status, "", 100.0)
    assert "state" not in change
    assert 100 + 0.8 * 80 <= change["due"] <= 100 + 1.2 * 80


def test_receiver_that_wants_no_more_is_left_alone() -> None:
    assert after_attempt(row(), 410, "", 1.0)["state"] == GIVEN_UP


def test_receiver_is_given_up_after_a_day() -> None:
    assert "state" not in after_attempt(row(), 500, "", PATIENCE_SECONDS - 1)
    assert after_attempt(row(), 500, "", PATIENCE_SECONDS + 1)["state"] == GIVEN_UP
    assert after_attempt(row(), 200, "", PATIENCE_SECONDS + 1)["state"] == DELIVERED


def test_pauses_grow_from_seconds_to_an_hour_and_differ() -> None:
    for attempt, usual in enumerate((5, 20, 80, 320, 1280, 3600, 3600), start=1):
        found = [pause(attempt) for _ in range(50)]
        assert all(0.8 * usual <= one <= 1.2 * usual for one in found)
        assert len(set(found)) > 1
    assert 0.8 * LONGEST_PAUSE <= pause(10**6) <= 1.2 * LONGEST_PAUSE
    assert FIRST_PAUSE == 5


@pytest.mark.parametrize(
    "text",
    [
        "hunter2",
        "whsec_",
        "whsec_!!!!",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        base64.b64encode(KEY).decode(),
        SECRETS + " more",
    ],
)
def test_setting_that_is_no_secret_ends_the_server_before_it_serves(
    text: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STENO_WEBHOOK_SECRET", text)
    settings.cache_clear()
    with pytest.raises(UsageError, match="STENO_WEBHOOK_SECRET") as refused, house(stage):
        pytest.fail("it must not serve")
    assert text not in str(refused.value)


def test_secrets_are_those_of_the_setting() -> None:
    assert secrets_of(SECRETS) == [KEY, OLD_KEY]
    assert secrets_of("") == []


def test_one_of_those_who_take_a_delivery_at_once_has_it(stage: Stage) -> None:
    servers = [Webhooks(stage.jobs.engine, Remote(), [KEY]) for _ in range(4)]
    together = threading.Barrier(len(servers))

    def take(server: Webhooks) -> int:
        together.wait()
        return len(server.take(Counter()))

    with stage.jobs.engine.begin() as connection:
        connection.execute(sa.insert(deliveries).values(asdict(row(due=0.0))))
    with ThreadPoolExecutor(len(servers)) as pool:
        for _ in range(20):
            due_now(stage)
            assert sum(pool.map(take, servers)) == 1
