"""`kill -9` of `steno serve` under load, again and again: what was accepted is done and told."""

from __future__ import annotations

import base64
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from houses import Receiver, receiver, sound
from pipelines import wait_for
from serving import Server, served

LIVES = 4
CLIENTS = 3
SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"


@dataclass
class Load:
    """What clients have submitted, by their idempotency keys.

    Attributes:
        accepted: ids of the jobs.
        unsure: no answer came.
    """

    there: Receiver
    accepted: dict[str, str] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)

    def submit(self, client: httpx.Client, key: str) -> httpx.Response:
        """An upload or a URL, as the key says."""
        given: dict[str, Any] = {"params": {"webhook_url": f"{self.there.url}/hook"}}
        if key.endswith("url"):
            url = f"{self.there.url}/a.wav"
            given = {"json": {"url": url, "webhook_url": f"{self.there.url}/hook"}}
        else:
            given["content"] = sound()
        return client.post("/v1/jobs", headers={"Idempotency-Key": key}, **given)

    def run(self, server: Server, name: str, stop: threading.Event) -> None:
        """Submit one after the other until the server is gone."""
        with server.client() as client:
            for number in range(10_000):
                key = f"{name}-{number}-{'url' if number % 3 else 'upload'}"
                if stop.is_set():
                    return
                try:
                    self.accepted[key] = self.submit(client, key).raise_for_status().json()["id"]
                except httpx.TransportError:
                    self.unsure.add(key)
                    return


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_server_loses_no_job_and_no_webhook(tmp_path: Path, models_dir: Path) -> None:
    environment = {
        "STENO_MODELS_DIR": str(models_dir),
        "STENO_WEBHOOK_SECRET": SECRET,
        "STENO_ALLOW_PRIVATE_URLS": "1",
    }
    arguments = ("--model", "tiny.en")
    with receiver(*[500, 204] * 10) as there:
        there.pages["/a.wav"] = 200, {}, sound()
        load = Load(there)
        for life in range(LIVES):
            with served(tmp_path, *arguments, environment=environment) as server:
                live(server, load, life)
        assert len(load.accepted) > 20
        with (
            served(tmp_path, *arguments, environment=environment) as server,
            server.client() as client,
        ):
            for key in load.unsure:  # what clients do who got no answer
                wait_for(partial(accept, client, load, key), 90)
            for key, id in load.accepted.items():
                answer = load.submit(client, key)
                assert (answer.json()["id"], answer.headers["idempotent-replayed"]) == (id, "true")
            ids = set(load.accepted.values())
            assert len(ids) == len(load.accepted)
            wait_for(lambda: ends(client, ids) == {("done", "delivered")}, 400)
            wait_for(lambda: not list((tmp_path / "bucket" / "input" / "api").iterdir()), 90)
    told = defaultdict(set)
    for call in there.calls:
        if "webhook-id" in call.headers:
            told[call.data["data"]["id"]].add(call.headers["webhook-id"])
    assert told.keys() == ids
    assert {len(one) for one in told.values()} == {1}


def live(server: Server, load: Load, life: int) -> None:
    """A life of the server, which ends suddenly."""
    stop = threading.Event()
    clients = [
        threading.Thread(target=load.run, args=(server, f"{life}-{one}", stop))
        for one in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    time.sleep(4.0 + life)
    server.process.kill()
    stop.set()
    for client in clients:
        client.join()


def accept(client: httpx.Client, load: Load, key: str) -> bool:
    """Submit again; False while the server that died may still be at it."""
    answer = load.submit(client, key)
    if answer.is_success:
        load.accepted[key] = answer.json()["id"]
    else:
        assert answer.status_code == 429, answer.text
    return answer.is_success


def ends(client: httpx.Client, ids: set[str]) -> set[tuple[str, str]]:
    """The states of jobs and of their webhooks."""
    time.sleep(0.5)
    found, cursor = set(), ""
    seen = set()
    while True:
        page = client.get("/v1/jobs", params={"limit": 200, "cursor": cursor}).json()
        seen |= {one["id"] for one in page["data"]}
        found |= {(one["state"], one["webhook"]["state"]) for one in page["data"]}
        if not page["next"]:
            assert seen == ids
            return found
        cursor = page["next"]
