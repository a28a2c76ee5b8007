"""Jobs over HTTP: submitted in any way, followed, cancelled, retried, deleted; one's own only."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from houses import House, Receiver, house, receiver, sound
from pipelines import RATE, SCRIPTED, Stage, opened, wait_for
from serving import served
from sounds import tone, write_wav
from stenopool.pipeline.database import submissions as table
from stenopool.pipeline.database import usage
from stenopool.pipeline.pool import Limits
from stenopool.pipeline.watch import Defaults, Watcher
from stenopool.service import intake, submissions
from stenopool.service.access import Access
from stenopool.service.intake import safe_name
from stenopool.settings import settings
from stenopool.writers import FORMATS

NOBODY = Limits(most=0)  # so that jobs wait


@contextmanager
def permitted(*, private: bool = True) -> Iterator[None]:
    """URLs of this machine may be fetched, or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STENO_ALLOW_PRIVATE_URLS", str(private))
        settings.cache_clear()
        yield
    settings.cache_clear()


@contextmanager
def staged(folder: Path, url: str = "") -> Iterator[Stage]:
    (folder / "bucket" / "input").mkdir(parents=True, exist_ok=True)
    url = url or f"sqlite:///{folder / 'jobs.sqlite'}"
    with opened(url) as jobs:
        yield Stage(folder / "bucket", url, jobs)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server with a worker that is used by many tests."""
    with permitted(), staged(tmp_path_factory.mktemp("home")) as stage, house(stage) as running:
        yield running


@pytest.fixture
def idle(stage: Stage) -> Iterator[House]:
    """A server of which all jobs wait."""
    with permitted(), house(stage, limits=NOBODY) as running:
        yield running


@pytest.fixture
def site() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


def files(stage: Stage) -> list[str]:
    """What is in the bucket."""
    found = (path for path in stage.folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(stage.folder)) for path in found)


def code(answer: httpx2.Response) -> tuple[int, str]:
    """Status and code of an error."""
    assert answer.is_error, answer.text
    return answer.status_code, answer.json()["error"]["code"]


def rows(stage: Stage) -> int:
    with stage.jobs.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


# --- submitting --------------------------------------------------------------------------------


def test_form_becomes_a_transcript_in_every_format(home: House) -> None:
    job = home.submit("two words.wav", seconds=2, options='{"language": "en"}', formats="txt,srt")
    assert job["state"] in {"waiting", "running", "done"}
    assert job["formats"] == ["txt", "srt", "json"]
    assert job["options"] == {"language": "en"}
    done = home.ended(job["id"])
    assert (done["state"], done["total_seconds"], done["error"]) == ("done", 2.0, None)
    results = {
        name: home.call("GET", f"/{job['id']}/result", params={"format": name}) for name in FORMATS
    }
    assert results["json"].json()["text"] == "s0 s1"
    assert results["txt"].text.split() == ["s0", "s1"]
    assert "-->" in results["srt"].text
    assert results["vtt"].text.startswith("WEBVTT")
    assert results["tsv"].text.startswith("start\tend\ttext")
    for name, answer in results.items():
        assert answer.status_code == 200, name
    outputs = {path.suffix for path in (home.stage.folder / "output" / "api").iterdir()}
    assert outputs == {".json", ".srt", ".txt"}


def test_body_of_any_type_becomes_a_job(home: House) -> None:
    query = {"name": "a.wav", "formats": "txt", "options": '{"language": "en"}'}
    job = home.post(content=sound(), params=query, headers={"Content-Type": "audio/wav"})
    assert job["key"].endswith("-a.wav")
    assert home.ended(job["id"])["state"] == "done"


def test_answer_says_where_the_job_is(idle: House) -> None:
    answer = idle.call("POST", "", files={"file": ("a.wav", sound())})
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    assert "idempotent-replayed" not in answer.headers


def test_recording_of_the_bucket_becomes_a_job(home: House) -> None:
    key = home.stage.lay("folder/in the bucket.wav")
    job = home.post(json={"key": key, "formats": ["txt"]})
    assert home.ended(job["id"])["state"] == "done"
    assert (home.stage.folder / "output" / "folder" / "in the bucket.wav.txt").exists()
    assert home.call("GET", f"/{job['id']}/result").json()["text"] == "s0"


def test_url_is_fetched_and_becomes_a_job(home: House, site: Receiver) -> None:
    site.pages["/a%20b.wav?c=d"] = 200, {}, sound()
    job = home.post(json={"url": f"{site.url}/a%20b.wav?c=d"})
    assert job["key"].endswith("-a b.wav")
    assert home.ended(job["id"])["state"] == "done"
    assert len(site.calls) == 1


@pytest.mark.parametrize(
    "key",
    [
        "a.wav",
        "processed/a.wav",
        "output/a.wav.json",
        "work/a/plan.json",
        ".stenopool/jobs.sqlite",
        "input/../jobs.sqlite",
        "/etc/passwd",
        "input/.hidden.wav",
        "input/a.wav.steno.json",
        f"input/api/{'0' * 32}-a.wav",
        "input/a\0.wav",
        "input/",
    ],
)
def test_only_recordings_below_input_can_be_named(idle: House, key: str) -> None:
    assert code(idle.call("POST", "", json={"key": key})) == (400, "usage")


def test_recording_that_is_not_there_is_refused(idle: House) -> None:
    answer = idle.call("POST", "", json={"key": "input/missing.wav"})
    assert code(answer) == (400, "input_not_found")


def form(**fields: str) -> dict[str, Any]:
    return {"files": {"file": ("a.wav", sound())}, "data": fields}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (form(options="{"), (400, "usage")),
        (form(options="[1]"), (400, "invalid_request")),
        (form(options='{"langage": "en"}'), (400, "unsupported_option")),
        (form(options='{"language": "klingon"}'), (404, "unknown_name")),
        (form(options='{"beam_size": 1e999}'), (400, "usage")),
        (form(options='{"beam_size": 1' + "0" * 400 + "}"), (400, "usage")),
        (form(options="[" * 50_000), (400, "usage")),
        (form(formats="docx"), (404, "unknown_name")),
        (form(model="nobody/knows"), (404, "unknown_name")),
        (form(colour="blue"), (400, "invalid_request")),
        (form(url="http://example.com/a.wav"), (400, "usage")),
        (form(webhook_url="http://example.com/hook"), (400, "usage")),  # there is no secret
        (form(webhook_url="file:///etc/passwd"), (400, "url_refused")),
        ({"data": {"model": "whisper-1"}, "files": {"other": b""}}, (400, "usage")),
        ({"json": {}}, (400, "usage")),
        ({"json": {"url": "http://example.com", "key": "input/a.wav"}}, (400, "usage")),
        ({"json": {"url": "file:///etc/passwd"}}, (400, "url_refused")),
        ({"json": {"url": "http://user:password@example.com/"}}, (400, "url_refused")),
        ({"json": [1]}, (400, "invalid_request")),
        ({"json": {"key": 7}}, (400, "invalid_request")),
        (
            {"content": b"{", "headers": {"Content-Type": "application/json"}},
            (400, "invalid_request"),
        ),
        ({"content": b"x", "params": {"options": "{"}}, (400, "usage")),
        ({"content": b"x", "headers": {"Idempotency-Key": "k" * 256}}, (400, "usage")),
    ],
)
def test_what_is_wrong_is_refused_and_leaves_nothing(
    idle: House, asked: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert code(idle.call("POST", "", **asked)) == expected
    assert rows(idle.stage) == 0
    assert not (idle.stage.folder / "input" / "api").exists()
    assert list(idle.state.uploads.folder.iterdir()) == []


def test_infinite_number_in_json_is_refused(idle: House) -> None:
    body = b'{"key": "input/a", "options": {"compression_ratio_threshold": 1e999}}'
    answer = idle.call("POST", "", content=body, headers={"Content-Type": "application/json"})
    assert code(answer) == (400, "usage")


def test_upload_that_is_too_large_is_refused(stage: Stage) -> None:
    with house(stage, limits=NOBODY, most_bytes=1 << 20) as small:
        large = b"x" * ((1 << 20) + 1)
        assert code(small.call("POST", "", content=large)) == (413, "too_large")
        assert code(small.call("POST", "", files={"file": bytes(3 << 20)})) == (413, "too_large")
        assert rows(stage) == 0
        assert list(small.state.uploads.folder.iterdir()) == []


def test_upload_is_streamed_to_the_bucket(tmp_path: Path) -> None:
    size, piece = 300 << 20, bytes(1 << 20)
    with served(tmp_path, "--workers", "0", instant=True) as server, server.client() as client:
        client.post("/v1/jobs", content=b"x").raise_for_status()
        before = server.memory
        job = client.post("/v1/jobs?name=large.wav", content=(piece for _ in range(300)))
        assert job.status_code == 202, job.text
        assert server.memory - before < 60 << 20
        assert (tmp_path / "bucket" / job.json()["key"]).stat().st_size == size
        assert server.keeps_nothing()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("talk.mp3", "talk.mp3"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("../..", "recording"),
        (".hidden.wav", "hidden.wav"),
        ("", "recording"),
        ("Grüße 東京 (2).wav", "Grüße 東京 (2).wav"),
        ("a\0b\nc\x7f.wav", "a_b_c_.wav"),
        ("a\ud800.wav", "a_.wav"),
        ("😀.wav", "_.wav"),
        ("x" * 500 + ".wav", "x" * 150 + ".wav"),
        ("東" * 200 + ".wav", "東" * 50 + ".wav"),
        ("a." + "x" * 300, "a." + "x" * 148),
    ],
)
def test_names_of_files_are_made_safe(given: str, name: str) -> None:
    assert safe_name(given) == name


def test_odd_names_become_jobs(idle: House) -> None:
    for name in ("../../x.wav", "ünï 東.wav", "\u202eevil.wav", "a" * 1000 + ".wav"):
        job = idle.post(content=sound(), params={"name": name})
        assert (idle.stage.folder / job["key"]).parent == idle.stage.folder / "input" / "api"
    assert code(idle.call("POST", "", content=b"x", params={"name": "a" * 2000})) == (
        400,
        "invalid_request",
    )


# --- idempotency -------------------------------------------------------------------------------


def test_repeated_request_makes_no_second_job(idle: House) -> None:
    asked = {**form(formats="txt"), "headers": {"Idempotency-Key": "mine"}}
    first = idle.call("POST", "", **asked)
    again = idle.call("POST", "", **form(formats="txt"), headers={"Idempotency-Key": "mine"})
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert rows(idle.stage) == 1
    assert len(files(idle.stage)) == 1
    assert idle.post(**form(formats="txt"))["id"] != first.json()["id"]


@pytest.mark.parametrize(
    "other",
    [
        form(formats="srt"),
        {"files": {"file": ("a.wav", sound(2))}, "data": {"formats": "txt"}},
        {"json": {"url": "http://example.com/a.wav"}},
    ],
)
def test_another_request_of_the_same_key_is_refused(idle: House, other: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "mine"}
    idle.post(**form(formats="txt"), headers=headers)
    answer = idle.call("POST", "", **other, headers=headers)
    assert code(answer) == (422, "idempotency_conflict")
    assert rows(idle.stage) == 1


def test_requests_at_the_same_moment_make_one_job(idle: House) -> None:
    together = threading.Barrier(8)

    def submit(_: int) -> httpx2.Response:
        together.wait()
        return idle.call("POST", "", content=sound(), headers={"Idempotency-Key": "mine"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submit, range(8)))
    made = {one.json()["id"] for one in answers if one.is_success}
    assert len(made) == 1
    assert {code(one) for one in answers if one.is_error} <= {(429, "busy")}
    assert rows(idle.stage) == 1
    assert len(files(idle.stage)) == 1


@pytest.mark.parametrize("source", ["url", "key"])
def test_idempotency_holds_for_every_source(idle: House, site: Receiver, source: str) -> None:
    key = idle.stage.lay("a.wav")
    given = {"url": f"{site.url}/slow"} if source == "url" else {"key": key}
    headers = {"Idempotency-Key": "mine"}
    ids = {idle.post(json=given, headers=headers)["id"] for _ in range(3)}
    assert len(ids) == 1
    assert rows(idle.stage) == 1


# --- whose jobs they are -----------------------------------------------------------------------


def test_jobs_are_seen_by_their_owner_only(idle: House) -> None:
    access = Access(idle.stage.jobs.engine)
    _, mine = access.create("mine")
    _, theirs = access.create("theirs")
    _, other = access.create("other", scopes=("transcribe",))
    idle.headers = {"Authorization": f"Bearer {mine}"}
    job = idle.post(**form(), headers={"Idempotency-Key": "one"})
    asks = [
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/result"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("POST", "/webhook/replay"),
        ("DELETE", ""),
    ]
    idle.headers = {"Authorization": f"Bearer {theirs}"}
    for method, path in asks:
        answer = idle.call(method, f"/{job['id']}{path}")
        assert code(answer) == (404, "unknown_name"), (method, path)
    assert idle.get()["data"] == []
    assert idle.post(**form(), headers={"Idempotency-Key": "one"})["id"] != job["id"]
    for headers, expected in (
        ({}, (401, "not_authenticated")),
        ({"Authorization": f"Bearer {other}"}, (403, "not_allowed")),
    ):
        idle.headers = headers
        for method, path in asks:
            assert code(idle.call(method, f"/{job['id']}{path}")) == expected
        assert code(idle.call("POST", "", **form())) == expected
        assert code(idle.call("GET", "")) == expected
    idle.headers = {"Authorization": f"Bearer {mine}"}
    assert idle.get(f"/{job['id']}")["state"] == "waiting"


@pytest.mark.parametrize("id", ["x", "0" * 32, "%00", "..", "0da21cf9e1cf8fbd2878c8c3-1"])
def test_job_that_is_not_there_is_not_found(idle: House, id: str) -> None:
    assert idle.call("GET", f"/{id}").status_code == 404


def test_audio_of_jobs_counts_once(stage: Stage) -> None:
    key, secret = Access(stage.jobs.engine).create("mine", audio_minutes_per_day=1)
    with house(stage) as home:
        home.headers = {"Authorization": f"Bearer {secret}"}
        for seconds in (2, 3):
            assert home.ended(home.submit(seconds=seconds)["id"])["state"] == "done"
        bad = home.post(content=b"garbage")
        assert home.ended(bad["id"])["state"] == "failed"
        with stage.jobs.engine.connect() as connection:
            (row,) = connection.execute(sa.select(usage)).all()
        assert (row.key, row.seconds) == (key.id, 5.0)


# --- lists -------------------------------------------------------------------------------------


def test_list_is_given_in_pages(idle: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "PAGE", 3)
    ids = [idle.post(**form())["id"] for _ in range(7)]
    found: list[str] = []
    cursor = ""
    while True:
        page = idle.get(params={"limit": 2, "cursor": cursor})
        found += [one["id"] for one in page["data"]]
        if len(found) == 4:
            idle.post(**form())  # what comes meanwhile moves nothing
        if not page["next"]:
            break
        cursor = page["next"]
    assert found == ids[::-1]


def test_list_is_filtered_by_state(idle: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "PAGE", 2)
    ids = [idle.post(**form())["id"] for _ in range(6)]
    for id in ids[::2]:
        idle.post(f"/{id}/cancel")
    for states, expected in (
        (["cancelled"], ids[::2]),
        (["waiting"], ids[1::2]),
        (["waiting", "cancelled"], ids),
        (["done", "fetching"], []),
    ):
        page = idle.get(params={"state": states, "limit": 200})
        assert [one["id"] for one in page["data"]] == expected[::-1]
        assert page["next"] is None


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"state": "odd"}, 404),
        ({"limit": 0}, 400),
        ({"limit": 201}, 400),
        ({"cursor": "x"}, 400),
        ({"cursor": "9" * 400 + "-" + "0" * 32}, 400),
        ({"cursor": "\0"}, 400),
    ],
)
def test_list_that_cannot_be_is_refused(idle: House, query: dict[str, Any], status: int) -> None:
    assert idle.call("GET", "", params=query).status_code == status


# --- events ------------------------------------------------------------------------------------


def events(home: House, id: str, **headers: str) -> Iterator[tuple[str, Any]]:
    """The events of a job as they come: name and data."""
    with (
        home.client as client,
        client.stream("GET", f"/v1/jobs/{id}/events", headers=headers) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def test_events_tell_what_happens_until_the_end(home: House) -> None:
    key = home.stage.lay("wait-2 for it.wav", seconds=4)
    job = home.post(json={"key": key})
    seen = []
    for name, data in events(home, job["id"]):
        seen.append((name, data["state"]))
        if data["done_seconds"] >= 2:
            home.stage.open()
    (home.stage.folder.parent / "open").unlink()
    assert seen[-1] == ("end", "done")
    assert {name for name, _ in seen[:-1]} == {"progress"}
    assert ("progress", "running") in seen
    assert list(events(home, job["id"])) == [("end", home.get(f"/{job['id']}"))]
    again = home.call("GET", f"/{job['id']}/events", headers={"Last-Event-ID": "end"})
    assert again.status_code == 204


def test_events_end_when_the_job_is_deleted(idle: House) -> None:
    id = idle.post(**form())["id"]
    told = events(idle, id)
    assert next(told)[0] == "progress"
    idle.post(f"/{id}/cancel")
    assert idle.call("DELETE", f"/{id}").status_code == 204
    assert [name for name, _ in told] in ([], ["end"])


def test_server_that_ends_does_not_wait_for_events(stage: Stage) -> None:
    with house(stage, limits=NOBODY) as home:
        told = events(home, home.post(**form())["id"])
        next(told)
        begun = time.monotonic()
    assert time.monotonic() - begun < 15
    assert list(told) == []


def test_command_ends_soon_although_somebody_follows_a_job(tmp_path: Path) -> None:
    with served(tmp_path, "--workers", "0", instant=True) as server, server.client() as client:
        id = client.post("/v1/jobs", content=sound()).json()["id"]
        with client.stream("GET", f"/v1/jobs/{id}/events") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: progress"
            server.process.terminate()
            assert server.process.wait(30) is not None
            assert "event: end" not in list(lines)


# --- cancel, retry, delete ---------------------------------------------------------------------


def test_waiting_job_is_cancelled_and_retried(stage: Stage) -> None:
    with house(stage, limits=NOBODY) as home:
        job = home.post(**form())
        assert home.post(f"/{job['id']}/cancel")["state"] == "cancelled"
        assert code(home.call("POST", f"/{job['id']}/cancel")) == (409, "wrong_state")
        again = home.post(f"/{job['id']}/retry")
        assert (again["id"], again["state"]) == (job["id"], "waiting")
        assert again["job"] != job["job"]
        assert code(home.call("POST", f"/{job['id']}/retry")) == (409, "wrong_state")
    with house(stage) as home:
        assert home.ended(job["id"])["state"] == "done"
        assert code(home.call("POST", f"/{job['id']}/retry")) == (409, "wrong_state")
        assert code(home.call("POST", f"/{job['id']}/cancel")) == (409, "wrong_state")


def test_running_job_is_cancelled(home: House) -> None:
    job = home.post(json={"key": home.stage.lay("wait to be cancelled.wav")})
    wait_for(lambda: home.stage.happened("begun", "wait to be cancelled.wav"))
    assert home.post(f"/{job['id']}/cancel")["state"] == "cancelled"
    assert code(home.call("GET", f"/{job['id']}/result")) == (409, "wrong_state")
    assert home.get(f"/{job['id']}")["state"] == "cancelled"


def test_failed_job_says_why_and_is_retried(home: House) -> None:
    job = home.post(content=b"this is no sound", params={"name": "a.wav"})
    failed = home.ended(job["id"])
    assert (failed["state"], failed["error"]["code"]) == ("failed", "not_media")
    assert code(home.call("GET", f"/{job['id']}/result")) == (409, "wrong_state")
    write_wav(
        home.stage.folder / "failed" / job["key"].removeprefix("input/"),
        tone(1.0, rate=RATE),
        rate=RATE,
    )
    assert home.post(f"/{job['id']}/retry")["state"] in {"waiting", "running", "done"}
    assert home.ended(job["id"])["state"] == "done"


def test_job_that_two_retry_at_once_is_done_once(idle: House) -> None:
    id = idle.post(**form())["id"]
    idle.post(f"/{id}/cancel")
    seen = idle.state.submissions.find(id, "open")
    idle.state.intake.retry(seen)
    with pytest.raises(submissions.Superseded):
        idle.state.intake.retry(seen)
    assert len(list(idle.stage.jobs.listed(states=("waiting",)))) == 1


def test_deleted_job_leaves_nothing(home: House) -> None:
    before = files(home.stage)
    ids = [home.submit("a.wav", formats="txt,srt,vtt,tsv")["id"], home.post(content=b"bad")["id"]]
    jobs = [home.ended(id)["job"] for id in ids]
    assert len(files(home.stage)) > len(before)
    for id in ids:
        assert home.call("DELETE", f"/{id}").status_code == 204
        assert code(home.call("GET", f"/{id}")) == (404, "unknown_name")
        assert code(home.call("DELETE", f"/{id}")) == (404, "unknown_name")
    assert files(home.stage) == before
    assert home.stage.jobs.of_ids(jobs) == {}


def test_cancelled_upload_is_deleted_with_all_its_generations(idle: House) -> None:
    id = idle.post(**form())["id"]
    for step in ("cancel", "retry", "cancel"):
        idle.post(f"/{id}/{step}")
    assert idle.call("DELETE", f"/{id}").status_code == 204
    assert files(idle.stage) == []
    assert list(idle.stage.jobs.listed()) == []


def test_active_job_is_not_deleted(idle: House) -> None:
    id = idle.post(**form())["id"]
    assert code(idle.call("DELETE", f"/{id}")) == (409, "wrong_state")
    assert idle.get(f"/{id}")["state"] == "waiting"


def test_recording_that_two_have_submitted_is_left_to_the_other(idle: House) -> None:
    key = idle.stage.lay("shared.wav")
    first, second = (idle.post(json={"key": key}) for _ in range(2))
    assert first["id"] != second["id"]
    assert first["job"] == second["job"]
    assert idle.post(f"/{first['id']}/cancel")["state"] == "cancelled"
    assert idle.call("DELETE", f"/{first['id']}").status_code == 204
    assert idle.get(f"/{second['id']}")["state"] == "waiting"
    assert idle.post(f"/{second['id']}/cancel")["state"] == "cancelled"


def test_recording_that_is_being_transcribed_otherwise_is_refused(idle: House) -> None:
    key = idle.stage.lay("a.wav")
    idle.post(json={"key": key, "options": {"language": "en"}})
    answer = idle.call("POST", "", json={"key": key, "options": {"language": "de"}})
    assert code(answer) == (409, "wrong_state")
    assert rows(idle.stage) == 1


def test_recording_that_was_cancelled_may_be_submitted_again(idle: House) -> None:
    key = idle.stage.lay("a.wav")
    first = idle.post(json={"key": key})
    idle.post(f"/{first['id']}/cancel")
    again = idle.post(json={"key": key})
    assert again["state"] == "waiting"
    assert again["job"] != first["job"]


def test_job_that_was_deleted_elsewhere_is_gone(idle: House) -> None:
    job = idle.post(**form())
    idle.stage.jobs.cancel(job["job"])
    assert idle.get(f"/{job['id']}")["state"] == "cancelled"
    idle.stage.jobs.delete(job["job"])
    assert code(idle.call("POST", f"/{job['id']}/retry")) == (409, "wrong_state")
    assert idle.call("DELETE", f"/{job['id']}").status_code == 204
    other = idle.post(**form())
    idle.stage.jobs.client.delete_workflows([other["job"]])
    assert idle.get(f"/{other['id']}")["state"] == "gone"


# --- fetching ----------------------------------------------------------------------------------


def test_url_that_cannot_be_had_fails_and_is_retried(home: House, site: Receiver) -> None:
    job = home.post(json={"url": f"{site.url}/a.wav"})
    failed = home.ended(job["id"])
    assert (failed["state"], failed["error"]["code"]) == ("failed", "url_failed")
    site.pages["/a.wav"] = 200, {}, sound()
    assert home.post(f"/{job['id']}/retry")["state"] == "fetching"
    assert home.ended(job["id"])["state"] == "done"


def test_url_that_is_in_trouble_is_tried_again(
    home: House, site: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "pause", lambda attempts: 0.1)
    site.pages["/a.wav"] = 503, {}, b""
    job = home.post(json={"url": f"{site.url}/a.wav"})
    wait_for(lambda: len(site.calls) >= 3)
    trying = home.get(f"/{job['id']}")
    assert (trying["state"], trying["error"]["code"]) == ("fetching", "url_unreachable")
    site.pages["/a.wav"] = 200, {}, sound()
    done = home.ended(job["id"])
    assert (done["state"], done["error"]) == ("done", None)


def test_url_that_stays_in_trouble_fails(
    idle: House, site: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "pause", lambda attempts: 0.0)
    monkeypatch.setattr(intake, "MOST_FETCHES", 2)
    site.pages["/a.wav"] = 503, {}, b""
    failed = idle.ended(idle.post(json={"url": f"{site.url}/a.wav"})["id"])
    assert (failed["state"], failed["error"]["code"]) == ("failed", "url_unreachable")
    assert len(site.calls) == 2


def test_slow_sites_of_one_owner_hold_nobody_else_up(idle: House, site: Receiver) -> None:
    access = Access(idle.stage.jobs.engine)
    mine, theirs = (
        {"Authorization": f"Bearer {access.create(name)[1]}"} for name in ("mine", "theirs")
    )
    site.pages["/a.wav"] = 200, {}, sound()
    with receiver() as slow:
        slow.gate.clear()
        slow.pages["/a.wav"] = 200, {}, sound()
        idle.headers = mine
        for _ in range(intake.FETCHES_AT_ONCE + 1):
            idle.post(json={"url": f"{slow.url}/a.wav"})
        wait_for(lambda: slow.calls)
        idle.headers = theirs
        id = idle.post(json={"url": f"{site.url}/a.wav"})["id"]
        wait_for(lambda: idle.get(f"/{id}")["state"] == "waiting")
        assert len(slow.calls) == intake.FETCHES_OF_ONE


def test_fetching_is_cancelled(
    idle: House, site: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "IN_HAND_SECONDS", 0.3)  # it looks so often
    site.pause = 0.2
    site.pages["/a.wav"] = 200, {}, bytes(1 << 22)
    job = idle.post(json={"url": f"{site.url}/a.wav"})
    wait_for(lambda: site.calls)
    assert idle.post(f"/{job['id']}/cancel")["state"] == "cancelled"
    wait_for(lambda: list(idle.state.uploads.folder.iterdir()) == [])
    assert files(idle.stage) == []
    assert idle.call("DELETE", f"/{job['id']}").status_code == 204


def test_internal_url_fails_where_it_is_not_permitted(stage: Stage, site: Receiver) -> None:
    with permitted(private=False), house(stage, limits=NOBODY) as home:
        failed = home.ended(home.post(json={"url": f"{site.url}/a.wav"})["id"])
        assert (failed["state"], failed["error"]["code"]) == ("failed", "url_refused")
        assert site.calls == []


# --- what survives -----------------------------------------------------------------------------


def test_accepted_jobs_survive_a_restart(stage: Stage, site: Receiver) -> None:
    site.pages["/a.wav"] = 503, {}, b""
    with permitted(), house(stage, limits=NOBODY) as home:
        ids = [home.post(**form())["id"], home.post(json={"url": f"{site.url}/a.wav"})["id"]]
        wait_for(lambda: site.calls)
    site.pages["/a.wav"] = 200, {}, sound()
    with stage.jobs.engine.begin() as connection:  # as if the pause were over
        connection.execute(sa.update(table).values(due=0.0))
    with permitted(), house(stage) as home:
        assert [home.ended(id)["state"] for id in ids] == ["done", "done"]


def test_fetch_of_a_server_that_died_is_begun_again_elsewhere(stage: Stage, site: Receiver) -> None:
    site.pages["/a.wav"] = 200, {}, sound()
    with permitted(), house(stage, limits=NOBODY) as home:
        id = home.post(json={"url": f"{site.url}/a.wav"})["id"]
        wait_for(lambda: home.get(f"/{id}")["state"] == "waiting")
        key = home.get(f"/{id}")["key"]
    # As it is when a server is killed after it has stored the file and before it was a job.
    stage.jobs.client.delete_workflows([row.id for row in stage.jobs.listed()])
    with stage.jobs.engine.begin() as connection:
        connection.execute(sa.update(table).values(stage="fetching", job="", due=0.0))
    with permitted(), house(stage) as home:
        done = home.ended(id)
        assert done["state"] == "done"
        assert done["key"] != key
        assert not (stage.folder / key).exists()


def test_upload_of_a_server_that_died_is_removed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise RuntimeError("the server dies here")

    with house(stage, limits=NOBODY) as home:
        monkeypatch.setattr(submissions.Submissions, "give", killed)
        assert home.call("POST", "", content=sound()).status_code == 500
    monkeypatch.undo()
    (left,) = files(stage)
    defaults = Defaults(SCRIPTED, ("json",), {})
    assert Watcher(stage.bucket, stage.jobs, defaults).look() == (0, 0)
    with house(stage, limits=NOBODY) as home:
        time.sleep(1)
        assert files(stage) == [left]  # another server may be at it
        assert home.get()["data"] == []
        with stage.jobs.engine.begin() as connection:
            connection.execute(sa.update(table).values(due=0.0))
        wait_for(lambda: files(stage) == [])
        wait_for(lambda: rows(stage) == 0)


def test_watcher_leaves_uploads_to_the_server(idle: House) -> None:
    idle.post(**form())
    key = idle.stage.lay("api/mine.wav")  # a folder of this name may be anybody's
    defaults = Defaults(SCRIPTED, ("json",), {})
    assert Watcher(idle.stage.bucket, idle.stage.jobs, defaults).look() == (1, 0)
    assert {one.job.key for one in idle.stage.jobs.listed()} > {key}


def test_storage_that_fails_is_told_and_leaves_no_job(
    idle: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    (idle.stage.folder / "input" / "api").write_text("in the way")
    answer = idle.call("POST", "", **form(), headers={"Idempotency-Key": "mine"})
    assert code(answer) == (507, "output_unwritable")
    (idle.stage.folder / "input" / "api").unlink()
    wait_for(lambda: rows(idle.stage) == 0)
    assert idle.post(**form(), headers={"Idempotency-Key": "mine"})["state"] == "waiting"


def test_what_ended_long_ago_is_forgotten(idle: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [idle.post(**form())["id"] for _ in range(2)]
    idle.post(f"/{ids[0]}/cancel")
    with idle.stage.jobs.engine.begin() as connection:
        ended = sa.update(table).where(table.c.stage == "ended")
        connection.execute(ended.values(ended=time.time() - 31 * 86_400))
    monkeypatch.setattr(idle.state.intake, "_forget_at", 0.0)
    wait_for(lambda: rows(idle.stage) == 1)
    assert idle.get(f"/{ids[1]}")["state"] == "waiting"


def test_one_of_those_who_take_up_a_fetch_has_it(stage: Stage) -> None:
    kept = submissions.Submissions(stage.jobs)
    wanted = submissions.Wanted("http://x/", "a", SCRIPTED, ("json",), {})
    one = submissions.Submission("open", "input/a", wanted, submissions.FETCHING)
    assert kept.add(one) is None
    (seen,) = kept.due(submissions.FETCHING, 9)
    taken = kept.take(seen, attempts=1)
    with pytest.raises(submissions.Superseded):
        kept.take(seen, attempts=1)
    assert kept.due(submissions.FETCHING, 9) == []
    kept.take(taken)


def test_two_servers_share_the_work(tmp_path: Path, site: Receiver) -> None:
    site.pages["/a.wav"] = 200, {}, sound()
    with (
        permitted(),
        staged(tmp_path) as one,
        staged(tmp_path) as other,
        house(one, limits=NOBODY) as first,
        house(other) as second,
    ):
        ids = [first.post(json={"url": f"{site.url}/a.wav"})["id"] for _ in range(6)]
        ids += [first.post(**form())["id"] for _ in range(3)]
        assert {second.ended(id)["state"] for id in ids} == {"done"}
    assert len(site.calls) == 6


def test_a_job_lives_its_life_in_every_database(
    tmp_path: Path, database: str, site: Receiver
) -> None:
    site.pages["/a.wav"] = 200, {}, sound()
    with permitted(), staged(tmp_path, database) as stage, house(stage) as home:
        odd = {"Idempotency-Key": "ünï".encode()}
        prompt = json.dumps({"initial_prompt": "\0 é"})
        ids = [
            home.post(**form(options=prompt), headers=odd)["id"],
            home.post(json={"url": f"{site.url}/a.wav", "name": "\0.wav"})["id"],
            home.post(content=b"bad")["id"],
        ]
        assert [home.ended(id)["state"] for id in ids] == ["done", "done", "failed"]
        assert home.post(**form(options=prompt), headers=odd)["id"] == ids[0]
        home.post(f"/{ids[2]}/retry")
        assert home.ended(ids[2])["state"] == "failed"
        page = home.get(params={"limit": 2})
        rest = home.get(params={"limit": 2, "cursor": page["next"]})
        assert [one["id"] for one in page["data"] + rest["data"]] == ids[::-1]
        assert home.call("GET", "/%00").status_code == 404
        for id in ids:
            assert home.call("DELETE", f"/{id}").status_code == 204
        assert files(stage) == []
