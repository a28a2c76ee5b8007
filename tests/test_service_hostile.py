"""The server in the hands of others: nothing that is sent is its fault, hurts it, or stays.

The workers are instant ones, so that only what comes in is at stake.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.core.result import Ok

from serving import INSTANT_WORKER, PATIENCE, Server, served, wait_until_ready
from sounds import tone, write_media
from stenopool.pipeline.desk import AT_ONCE
from stenopool.service.guard import MOST_FIELD_BYTES, MOST_FIELDS, MOST_FILES, MOST_JSON_BYTES

PATH = "/v1/audio/transcriptions"
MOST_MEGABYTES = 8
PATIENCE_SECONDS = 1.0
WAITING = 2
SLOW = b"!slow "
BOUNDARY = "b"
FORM = f"multipart/form-data; boundary={BOUNDARY}"

FEW = settings(
    max_examples=15,
    deadline=None,
    database=None,
    suppress_health_check=[*HealthCheck],
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    given = ("--max-upload-mb", str(MOST_MEGABYTES), "--max-waiting", str(WAITING))
    environment = {PATIENCE: str(PATIENCE_SECONDS)}
    folder = tmp_path_factory.mktemp("hostile")
    with served(folder, *given, environment=environment, instant=True) as server:
        yield server


@pytest.fixture(autouse=True)
def unharmed(server: Server) -> Iterator[None]:
    """Whatever a test does, the server lives, keeps nothing, and met nothing unforeseen."""
    yield
    assert server.is_well()
    assert server.keeps_nothing()
    assert "Traceback" not in server.log


def post(server: Server, content: bytes, kind: str = FORM, **headers: str) -> httpx.Response:
    """A body as it is."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(
        f"{server.url}{PATH}", content=content, headers={"content-type": kind, **named}, timeout=60
    )


def part(name: str, content: bytes = b"x", more: str = "") -> bytes:
    """A part of a form."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def file_part(content: bytes = b"x", name: str = "a.wav") -> bytes:
    return part("file", content, f'; filename="{name}"')


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def refused(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of an answer."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["message"]
    return error


def raw(server: Server, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What comes back for bytes."""
    with server.connect() as connection:
        with suppress(OSError):  # it may hang up before it has got all
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        return received(connection)


def received(connection: socket.socket) -> bytes:
    """All until the server hangs up."""
    found = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            found += piece
    return found


def request(*lines: str, path: str = PATH, method: str = "POST") -> bytes:
    """The head of a request."""
    head = (f"{method} {path} HTTP/1.1", "host: localhost", *lines, "", "")
    return "\r\n".join(head).encode()


# --- whatever the document says ------------------------------------------------------------------


def test_nothing_that_the_document_allows_or_forbids_is_an_error_of_the_server(
    server: Server,
) -> None:
    wait_until_ready(server)  # what is not ready yet says so by a status of the server
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked = dict.fromkeys(schemathesis.GenerationMode, 0)
    for found in document.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        for mode in asked:

            @FEW
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case[Any]) -> None:
                answer = case.call(timeout=60)
                assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text}"

            with suppress(Unsatisfiable):  # where there is nothing to give, nothing can be wrong
                ask()
                asked[mode] += 1
    assert min(asked.values()) > 1


# --- forms ---------------------------------------------------------------------------------------


@FEW
@given(body=st.binary(max_size=500))
def test_bytes_that_are_no_form(server: Server, body: bytes) -> None:
    refused(post(server, body))


@FEW
@given(data=st.data())
def test_form_that_is_damaged(server: Server, data: st.DataObject) -> None:
    whole = bytearray(form(part("model", b"whisper-1"), file_part(b"sound"), part("prompt")))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        end = at + data.draw(st.integers(0, 8))
        whole[at:end] = data.draw(st.binary(max_size=8))
    assert post(server, bytes(whole)).status_code in {200, 400, 404}


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + 1000 * "x",
        "multipart/mixed; boundary=b",
        "application/json",
        "application/x-www-form-urlencoded",
        "text/plain",
        "nonsense",
        ";;;",
    ],
)
def test_body_of_another_type(server: Server, kind: str) -> None:
    refused(post(server, form(file_part()), kind))


@pytest.mark.parametrize(
    "charset",
    ["utf-16", "utf-7", "idna", "punycode", "undefined", "rot13", "base64", "zlib", "no-such"],
)
def test_form_in_any_encoding(server: Server, charset: str) -> None:
    body = form(file_part(), part("prompt", b"\\ud800 +2AA- \xff\xfe"))
    assert post(server, body, f"{FORM}; charset={charset}").status_code in {200, 400}


def test_form_with_lone_surrogates(server: Server) -> None:
    kind = f"{FORM}; charset=unicode_escape"
    for name in ("prompt", "model", "language", "response_format", "temperature"):
        answer = post(server, form(file_part(), part(name, rb"\ud800")), kind)
        assert answer.status_code in {400, 404}
        assert "\\ud800" not in answer.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("temperature", "1e999"),
        ("temperature", "nan"),
        ("temperature", "9" * 5000),
        ("stream", "perhaps"),
        ("response_format", "x" * 1000),
        ("response_format", '{"a": 1}'),
        ("timestamp_granularities[]", "hour"),
        ("include[]", "everything"),
        ("language", "x" * 1000),
        ("language", "../../etc/passwd"),
        ("language", "\0"),
        ("chunking_strategy[threshold]", "-1"),
        ("chunking_strategy[silence_duration_ms]", "9" * 50),
    ],
)
def test_value_that_is_none(server: Server, name: str, value: str) -> None:
    refused(post(server, form(file_part(), part(name, value.encode()))))


@pytest.mark.parametrize("name", ["x" * 1000, "../tiny.en", "\0", "/etc", ".", "tiny.en\n", "/"])
def test_model_that_is_none(server: Server, name: str) -> None:
    refused(post(server, form(file_part(), part("model", name.encode()))), 404)


def test_parts_of_the_wrong_kind(server: Server) -> None:
    refused(post(server, form(part("file", b"no file"))))
    refused(post(server, form(file_part(), part("prompt", b"x", '; filename="a"'))))
    refused(post(server, form(part("model"))))
    refused(post(server, form()))


def test_value_that_is_given_again(server: Server) -> None:
    body = form(file_part(), *(part("prompt", b"%d" % number) for number in range(50)))
    assert post(server, body).status_code == 200
    assert post(server, form(file_part(b"one"), file_part(b"two"))).status_code == 200


def test_form_with_too_much_in_it(server: Server) -> None:
    refused(post(server, form(file_part(), *[part("prompt")] * (MOST_FIELDS + 1))))
    refused(post(server, form(*[file_part()] * (MOST_FILES + 1))))
    refused(post(server, form(file_part(), part("prompt", b"x" * (MOST_FIELD_BYTES + 1)))))


@pytest.mark.parametrize("count", [1, 1000])
def test_headers_of_a_part_that_do_not_end(server: Server, count: int) -> None:
    size = (MOST_MEGABYTES << 20) // count - 100
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"x" * size) for number in range(count))
    before = server.memory
    begun = time.monotonic()
    refused(post(server, b"--b\r\n" + lines + b"\r\nx\r\n--b--\r\n"))
    assert time.monotonic() - begun < 5
    assert server.memory - before < 2 * MOST_MEGABYTES << 20


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/cron.d/x",
        "/etc/passwd",
        "..",
        "a.wav/../../b",
        "C:\\\\windows\\\\x.wav",
        "a\0.wav",
        "a.\0",
        ".",
        "",
        "x" * 3000 + ".wav",
        "a." + "x" * 3000,
        "a.wav;rm -rf .",
        "$(id).wav",
        "-rf",
        "\N{SNOWMAN}.\N{SNOWMAN}",
        "http://169.254.169.254/x.m3u8",
        "concat:/etc/passwd|x.ts",
    ],
)
def test_file_name_is_but_a_name(server: Server, name: str) -> None:
    answer = post(server, form(file_part(b"sound", name)))
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"].startswith("5 bytes.")
    folders = [one for one in (server.folder / "tmp").iterdir() if not one.is_socket()]
    assert [one.name.startswith("stenopool-uploads-") for one in folders] == [True]


# --- sizes ---------------------------------------------------------------------------------------


def test_body_that_says_it_is_too_large_is_refused_before_it_comes(server: Server) -> None:
    said = raw(
        server, request("content-length: 99999999999", f"content-type: {FORM}", "connection: close")
    )
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in said


@pytest.mark.parametrize("value", ["-1", "1e3", "0x10", "9" * 40, "1, 2", ""])
def test_length_that_is_none(server: Server, value: str) -> None:
    said = raw(server, request(f"content-length: {value}", "connection: close"), b"x")
    assert said.split(b" ")[1] in {b"400", b"413"}


def test_body_that_turns_out_too_large(server: Server) -> None:
    def pieces() -> Iterator[bytes]:
        yield part("file", b"", '; filename="a"')[:-2]
        for _ in range(2 * MOST_MEGABYTES):
            yield b"\0" * (1 << 20)

    answer = httpx.post(
        f"{server.url}{PATH}", content=pieces(), headers={"content-type": FORM}, timeout=60
    )
    assert refused(answer, 413)["code"] == "too_large"


def test_json_that_is_too_large(server: Server) -> None:
    documented = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    paths = [
        path
        for path, methods in documented.items()
        if "application/json" in methods.get("post", {}).get("requestBody", {}).get("content", {})
        and "{" not in path
    ]
    for path in paths:
        answer = httpx.post(
            f"{server.url}{path}",
            content=b'"' + b"x" * MOST_JSON_BYTES + b'"',
            headers={"content-type": "application/json"},
        )
        assert answer.status_code in {400, 413}, path


def test_disk_that_is_full(tmp_path: Path) -> None:
    with served(tmp_path, instant=True, most_file_bytes=4 << 20) as small:
        error = refused(post(small, form(file_part(b"\0" * (5 << 20)))), 507)
        assert error["code"] == "storage_full"
        assert str(tmp_path) not in error["message"]
        assert post(small, form(file_part())).status_code == 200
        assert small.keeps_nothing()


def test_recording_that_unfolds_to_more_than_is_allowed(models_dir: Path, tmp_path: Path) -> None:
    bomb = write_media(tmp_path / "a.flac", tone(120.0, level=0.0), codec="flac", rate=16_000)
    assert bomb.stat().st_size < 100_000
    environment = {"STENO_MODELS_DIR": str(models_dir), "STENO_MAX_HOURS": "0.01"}
    with served(tmp_path, "--model", "tiny.en", environment=environment) as real:
        error = refused(post(real, form(file_part(bomb.read_bytes(), "a.flac"))))
        assert error["code"] == "recording_too_long"
        assert real.is_well()


def test_server_that_was_killed_leaves_nothing_to_the_next_one(tmp_path: Path) -> None:
    body = form(file_part(SLOW + b"x" * 100_000))
    head = request(f"content-type: {FORM}", f"content-length: {len(body)}")
    with served(tmp_path, instant=True) as first, sent(first, head + body):
        until = time.monotonic() + 20
        while not first.uploads and time.monotonic() < until:
            time.sleep(0.05)
        assert first.uploads
        first.process.kill()
        first.process.wait()
        assert first.uploads
    with served(tmp_path, instant=True) as second:
        assert second.uploads == []
        assert len([*(tmp_path / "tmp").glob("stenopool-uploads-*")]) == 1


def test_packed_body_is_not_unpacked(server: Server) -> None:
    answer = post(server, form(file_part(b"\x1f\x8b" + b"\0" * 100)), content_encoding="gzip")
    assert answer.json()["text"].startswith("102 bytes.")


# --- connections ---------------------------------------------------------------------------------


@contextmanager
def sent(server: Server, *pieces: bytes) -> Iterator[socket.socket]:
    """A connection on which something was sent."""
    with server.connect() as connection:
        for piece in pieces:
            connection.sendall(piece)
        yield connection


def test_upload_that_is_cut_off(server: Server) -> None:
    body = form(file_part(b"x" * 200_000))
    head = request(f"content-type: {FORM}", f"content-length: {len(body)}")
    for length in (0, 1, 60, 1000, 150_000, len(body) - 1):
        with sent(server, head, body[:length]):
            time.sleep(0.05)
    assert post(server, form(file_part())).status_code == 200


def test_upload_that_stops_coming(server: Server) -> None:
    body = form(file_part(b"x" * 200_000))
    head = request(f"content-type: {FORM}", f"content-length: {len(body)}")
    begun = time.monotonic()
    said = raw(server, head, body[:150_000])
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"too_slow"' in said
    assert PATIENCE_SECONDS <= time.monotonic() - begun < PATIENCE_SECONDS + 5


def test_upload_that_comes_slowly_is_taken(server: Server) -> None:
    body = form(file_part(b"sound"))
    lines = (f"content-type: {FORM}", f"content-length: {len(body)}", "connection: close")
    pieces = [body[at : at + 20] for at in range(0, len(body), 20)]
    assert b"5 bytes." in raw(server, request(*lines), *pieces, pause=PATIENCE_SECONDS / 3)


def test_headers_that_stop_coming(server: Server) -> None:
    begun = time.monotonic()
    assert raw(server, b"POST / HTTP/1.1\r\nhost: loc").startswith(b"HTTP/1.1 408 ")
    assert raw(server) == b""
    assert time.monotonic() - begun < 2 * PATIENCE_SECONDS + 5


def test_slow_clients_do_not_keep_others_waiting(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(sent(server, b"POST /v1"))
        begun = time.monotonic()
        assert post(server, form(file_part())).status_code == 200
        assert time.monotonic() - begun < 5


def test_flood_of_headers(server: Server) -> None:
    before = server.memory
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"x" * 100) for number in range(100_000))
    for pieces in (
        [b"GET /healthz HTTP/1.1\r\n" + lines],  # many
        [b"GET /healthz HTTP/1.1\r\nx: ", *[b"x" * 65_536] * 300],  # one that does not end
        [b"GET /", *[b"x" * 65_536] * 300],
        [b"GET /healthz HTTP/1.1\r\n", *[b"x" * 10_000 + b": 1\r\n"] * 300],
    ):
        assert_flooded(raw(server, *pieces))
    assert server.memory - before < 10 << 20


def assert_flooded(said: bytes) -> None:
    """It has hung up, and said why if there was somebody who listened."""
    assert said == b"" or said.startswith(b"HTTP/1.1 431 "), said[:100]


def test_what_follows_a_body_may_not_go_on_for_ever(server: Server) -> None:
    head = request("transfer-encoding: chunked", f"content-type: {FORM}")
    for pieces in (
        [b"0\r\n", *[b"x: " + b"x" * 60_000 + b"\r\n"] * 300],  # trailers
        [b"0\r\nx: ", *[b"x" * 65_536] * 300],
        [b"1;x=", *[b"x" * 65_536] * 300],  # an extension of a chunk
    ):
        assert_flooded(raw(server, head, *pieces))


@pytest.mark.parametrize(
    "said",
    [
        b"\0" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"NONSENSE / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /v1 HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1 HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /v1 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nho st: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: a\r\n b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS greeting
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request(server: Server, said: bytes) -> None:
    with sent(server, said) as connection:
        connection.shutdown(socket.SHUT_WR)
        answer = received(connection)
    assert answer == b"" or answer.split(b" ")[1][:1] == b"4", answer[:100]


@pytest.mark.parametrize(
    "path",
    [
        "/..%2f..%2fetc/passwd",
        "/v1/models/%00",
        "/v1/models/%ff%fe",
        "/v1/models/..%2f..%2f",
        "/v1/models/%ed%a0%80",
        "//",
        "/%",
        "/" + "x" * 10_000,
        "/v1/models?" + "x" * 10_000,
        "http://localhost/../../etc/passwd",
        "*",
    ],
)
def test_path_that_is_none(server: Server, path: str) -> None:
    said = raw(server, request("connection: close", path=path, method="GET"))
    assert said.split(b" ")[1] in {b"400", b"404", b"200"}
    assert (b" 200 " in said[:20]) == path.startswith("/v1/models?")


def test_name_that_a_web_page_made_up(server: Server) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", ""):
        answer = httpx.get(f"{server.url}/v1/models", headers={"host": host})
        assert answer.status_code in {400, 401}, host


# --- those who do not wait, and those who are many -----------------------------------------------


def test_client_who_goes_frees_its_place(server: Server) -> None:
    body = form(file_part(SLOW))
    head = request(f"content-type: {FORM}", f"content-length: {len(body)}")
    for _ in range(AT_ONCE + 5):
        with sent(server, head + body):
            time.sleep(0.01)
    assert server.keeps_nothing()
    begun = time.monotonic()
    assert post(server, form(file_part())).status_code == 200
    assert time.monotonic() - begun < 10


def test_client_who_leaves_a_stream_frees_its_place(server: Server) -> None:
    body = form(file_part(b"!pause "), part("stream", b"true"))
    head = request(f"content-type: {FORM}", f"content-length: {len(body)}")
    for _ in range(AT_ONCE + 5):
        with sent(server, head + body) as connection:
            assert b" 200 " in connection.recv(65_536)
    assert server.keeps_nothing()
    begun = time.monotonic()
    assert post(server, form(file_part())).status_code == 200
    assert time.monotonic() - begun < 10


def test_more_than_may_wait_are_told_to_come_again(server: Server) -> None:
    body = form(file_part(SLOW))
    head = request(f"content-type: {FORM}", f"content-length: {len(body)}")
    with ExitStack() as stack:
        for _ in range(AT_ONCE + WAITING):
            stack.enter_context(sent(server, head + body))
        until = time.monotonic() + 20
        while len(server.uploads) < AT_ONCE + WAITING and time.monotonic() < until:
            time.sleep(0.05)
        answer = post(server, form(file_part()))
        assert refused(answer, 429)["code"] == "busy"
        assert int(answer.headers["retry-after"]) >= 1


def test_worker_that_hangs_does_not_hold_up_the_server(server: Server) -> None:
    wait_until_ready(server)
    worker = next(
        child
        for child in psutil.Process(server.process.pid).children()
        if any(INSTANT_WORKER.name in argument for argument in child.cmdline())
    )
    body = form(file_part(), part("prompt", b"x" * MOST_FIELD_BYTES))
    with ThreadPoolExecutor() as threads:
        worker.suspend()
        try:
            asked = [threads.submit(post, server, body) for _ in range(5)]
            time.sleep(1)  # its pipe is full now
            assert server.is_well()
        finally:
            worker.resume()
        assert {one.result().status_code for one in asked} == {200}


def test_pipelined_requests_are_answered_in_turn(server: Server) -> None:
    one = request(method="GET", path="/healthz")
    last = request("connection: close", method="GET", path="/healthz")
    assert raw(server, one * 50 + last).count(b"HTTP/1.1 200 OK") == 51


def test_files_and_sockets_are_given_back(server: Server) -> None:
    def trouble() -> None:
        post(server, b"nonsense")
        post(server, form(file_part(b"!garbage ")))
        with sent(server, request("content-length: 100", f"content-type: {FORM}"), b"--b"):
            pass

    trouble()
    time.sleep(0.5)
    before = server.open_files
    for _ in range(30):
        trouble()
    time.sleep(PATIENCE_SECONDS + 0.5)
    assert server.open_files <= before + 2


# --- keys ----------------------------------------------------------------------------------------


def test_key_is_asked_for_before_the_body(tmp_path: Path) -> None:
    from stenopool.pipeline.database import open_database
    from stenopool.service.access import Access

    database = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    engine = open_database(database)
    _, secret = Access(engine).create("test", ("transcribe",))
    engine.dispose()
    with served(tmp_path, instant=True) as closed:
        for line in ("x: y", "authorization: Bearer wrong", "authorization: Basic eDp5"):
            head = request("content-length: 100000", f"content-type: {FORM}", line)
            with sent(closed, head) as connection:
                assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")
        answer = post(closed, form(file_part()), authorization=f"Bearer {secret}")
        assert answer.status_code == 200
        assert secret not in closed.log


# --- memory --------------------------------------------------------------------------------------

GIGABYTE = 1 << 30
MOST_MEMORY = 300 << 20


def peak(server: Server) -> int:
    """Bytes that the process had in memory at most."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


@pytest.mark.slow
@pytest.mark.parametrize("path", [PATH, "/invocations"])
def test_large_upload_needs_little_memory(tmp_path: Path, path: str) -> None:
    recording = tmp_path / "large.wav"
    with recording.open("wb") as file:
        file.truncate(2 * GIGABYTE)
    with served(tmp_path, instant=True) as large, recording.open("rb") as file:
        given: dict[str, Any] = {"files": {"file": file}} if path == PATH else {"content": file}
        answer = httpx.post(f"{large.url}{path}", timeout=600, **given)
        assert answer.json()["text"].startswith(f"{2 * GIGABYTE} bytes.")
        assert peak(large) < MOST_MEMORY, peak(large)
        assert large.keeps_nothing()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_requests(tmp_path: Path) -> None:
    with served(tmp_path, instant=True) as busy, busy.client() as client:

        def ask(times: int) -> int:
            for number in range(times):
                content = b"x" * (1 + 4096 * (number % 500))
                data = {"response_format": ("json", "verbose_json", "srt")[number % 3]}
                answer = client.post(PATH, files={"file": ("a.wav", content)}, data=data)
                assert answer.status_code == 200
            return busy.memory

        before = ask(500)
        after = ask(2000)
        assert abs(after - before) < 0.05 * before, json.dumps([before, after])
