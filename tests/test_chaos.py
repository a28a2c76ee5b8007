"""`benchmarks/chaos`: its proxy makes the trouble that it promises, and its checks see it."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chaos import kill, proxy
from chaos.claims import Found, broken, broken_jobs, difference, digest, drift
from chaos.proxy import Proxy
from stenopool.bucket import Stamp
from stenopool.pipeline.job import Group, Job
from stenopool.pipeline.jobs import JobView, State

BODY = b"0123456789" * 1000


@dataclass
class Upstream:
    """A server that keeps what it is given.

    Attributes:
        kept: content by path.
    """

    endpoint: str = ""
    kept: dict[str, bytes] = field(default_factory=lambda: {"/there": BODY})


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    found = Upstream()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(found.kept[self.path])

        def do_PUT(self) -> None:
            wanted = int(self.headers["Content-Length"])
            data = self.rfile.read(wanted)
            if len(data) == wanted:
                found.kept[self.path] = data
                self._answer(b"kept")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def between(upstream: Upstream) -> Iterator[Proxy]:
    with proxy.proxy(upstream.endpoint) as found:
        yield found


def asked(between: Proxy, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of what a client is told."""
    connection = HTTPConnection(urlsplit(between.endpoint).netloc, timeout=10)
    try:
        connection.request(method, path, body)
        response: HTTPResponse = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_proxy_without_fault_changes_nothing(between: Proxy, upstream: Upstream) -> None:
    assert asked(between, "GET", "/there") == (200, BODY)
    assert asked(between, "PUT", "/new", b"content") == (200, b"kept")
    assert upstream.kept["/new"] == b"content"
    assert between.seen == {"none": 2}


@pytest.mark.parametrize(("fault", "status"), [("500", 500), ("503", 503)])
def test_a_refused_request_does_not_reach_the_server(
    between: Proxy, upstream: Upstream, fault: proxy.Fault, status: int
) -> None:
    between.fault = fault
    told, body = asked(between, "PUT", "/new", b"content")
    assert told == status
    assert b"<Code>" in body
    assert asked(between, "HEAD", "/there") == (status, b"")
    assert "/new" not in upstream.kept


def test_a_slow_answer_comes_late_and_whole(
    between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "SLOW_SECONDS", 0.3)
    between.fault = "slow"
    begun = time.monotonic()
    assert asked(between, "GET", "/there") == (200, BODY)
    assert time.monotonic() - begun >= 0.3


def test_a_cut_answer_ends_in_the_middle(between: Proxy) -> None:
    between.fault = "cut"
    with pytest.raises((HTTPException, OSError)):
        asked(between, "GET", "/there")


def test_cuts_hit_requests_and_answers_in_turn(between: Proxy, upstream: Upstream) -> None:
    between.fault = "cut"
    with pytest.raises((HTTPException, OSError)):
        asked(between, "PUT", "/first", BODY)
    with pytest.raises((HTTPException, OSError)):
        asked(between, "PUT", "/second", BODY)
    assert "/first" not in upstream.kept
    assert upstream.kept["/second"] == BODY  # done, and nobody was told
    between.fault = "none"
    assert asked(between, "GET", "/second") == (200, BODY)


def test_a_server_that_is_away_ends_the_connection(between: Proxy) -> None:
    between.upstream = "http://127.0.0.1:9"  # nobody listens there
    with pytest.raises((HTTPException, OSError)):
        asked(between, "GET", "/there")


def transcript(text: str = "hello", *, probability: float = 0.9, precision: str = "int8") -> bytes:
    data = {
        "text": text,
        "segments": [{"text": text, "avg_logprob": -0.1, "words": [{"probability": probability}]}],
        "model": {"precision": precision},
        "timing": {"wall_seconds": time.perf_counter()},
    }
    return json.dumps(data).encode()


def documents(name: str, document: bytes | None = None) -> dict[str, bytes]:
    plain = {f"{name}.{format}": b"hello" for format in ("txt", "srt", "vtt")}
    return {**plain, f"{name}.json": document or transcript()}


def good() -> Found:
    return Found(
        processed={"a.wav": digest(b"a"), "b.wav": digest(b"b")},
        failed={"c.wav": digest(b"c")},
        codes={"c.wav": "not_media"},
        documents={**documents("a.wav"), **documents("b.wav")},
        left=(),
    )


SENT = {"a.wav": digest(b"a"), "b.wav": digest(b"b"), "c.wav": digest(b"c")}


def without(found: Found, name: str) -> Found:
    """A recording that is nowhere."""
    kept = {key: one for key, one in found.processed.items() if key != name}
    return replace(found, processed=kept)


def also(found: Found, **more: bytes) -> Found:
    return replace(found, documents={**found.documents, **more})


def test_an_equal_run_keeps_every_claim() -> None:
    assert broken(SENT, good(), good()) == []
    assert drift(good(), good()) == 0.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: without(found, "a.wav"), "neither in processed/ nor in failed/: a.wav"),
        (
            lambda found: replace(found, failed={**found.failed, "a.wav": digest(b"a")}),
            "in processed/ and in failed/: a.wav",
        ),
        (
            lambda found: replace(found, processed={**found.processed, "a.wav": digest(b"?")}),
            "recordings changed on the way: a.wav",
        ),
        (
            lambda found: replace(found, processed={**found.processed, "d.wav": digest(b"d")}),
            "recordings that nobody has sent: d.wav",
        ),
        (lambda found: replace(found, left=("work/x/plan.json",)), "left behind: work/x/plan.json"),
        (lambda found: replace(found, left=("input/a.wav",)), "left behind: input/a.wav"),
        (
            lambda found: replace(
                found,
                documents={k: v for k, v in found.documents.items() if k != "a.wav.srt"},
            ),
            "documents missing: a.wav.srt",
        ),
        (lambda found: also(found, **{"a.wav~1.json": b"{}"}), "documents too many: a.wav~1.json"),
        (lambda found: also(found, **{"a.wav.txt": b"hullo"}), "document changed: a.wav.txt"),
        (
            lambda found: also(found, **{"a.wav.json": transcript("hullo")}),
            "transcript changed: a.wav.json: `segments[0].text` is 'hullo', undisturbed 'hello'",
        ),
        (
            lambda found: also(found, **{"a.wav.json": transcript(precision="bfloat16")}),
            "transcript changed: a.wav.json: `model.precision` is 'bfloat16', undisturbed 'int8'",
        ),
        (
            lambda found: also(found, **{"a.wav.json": b"{cut o"}),
            "transcript changed: a.wav.json: `model` is None",
        ),
        (
            lambda found: replace(found, codes={"c.wav": "defect"}),
            "failed for another reason: c.wav",
        ),
        (
            lambda found: replace(found, codes={**found.codes, "a.wav": "defect"}),
            "error records without recordings: a.wav",
        ),
    ],
)
def test_a_broken_claim_is_reported(change: Callable[[Found], Found], said: str) -> None:
    problems = broken(SENT, change(good()), good())
    assert any(one.startswith(said) for one in problems), problems


def test_what_fails_only_under_fire_is_reported_with_its_reason() -> None:
    found = replace(
        without(good(), "a.wav"),
        failed={**good().failed, "a.wav": digest(b"a")},
        codes={**good().codes, "a.wav": "input_crashed"},
    )
    assert "failed, but not undisturbed: a.wav (input_crashed)" in broken(SENT, found, good())


def test_figures_may_differ_a_little_and_timing_altogether() -> None:
    near = also(good(), **{"a.wav.json": transcript(probability=0.895)})
    far = also(good(), **{"a.wav.json": transcript(probability=0.5)})
    assert broken(SENT, near, good()) == []
    assert drift(near, good()) == pytest.approx(0.005)
    assert broken(SENT, far, good()) != []
    assert difference({"timing": 1, "text": "a"}, {"timing": 2, "text": "a"}) == ""


def job(key: str, state: State) -> JobView:
    given = Job("file:///b", key, Stamp(1, 1, "1"), Group("tiny.en"), ("json",))
    return JobView(key, given, state, "", 0.0, None, 1, 0, "", 0.0, None, 0.0, None, None)


def test_jobs_that_should_not_be_are_reported() -> None:
    assert broken_jobs([job("input/a", "done"), job("input/b", "failed")]) == []
    problems = broken_jobs([job("input/a", "done"), job("input/a", "done"), job("input/b", "left")])
    assert problems == ["more than one job: input/a", "1 jobs are left"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killing_workers_loses_nothing(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STENO_MODELS_DIR", str(models_dir))
    monkeypatch.setenv("STENO_OFFLINE", "1")
    monkeypatch.setattr(kill, "lengths", lambda count: [30.0 * (n + 1) for n in range(count)])
    arguments = argparse.Namespace(
        backend="local", recordings=6, workers=2, model="tiny.en", data=None, kills=4, every=4.0
    )
    assert kill.measure(arguments, tmp_path).problems == []
