"""Object stores that do not do their part: every failure has a name, and comes soon."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from moto.core.authorization import enable_iam_authentication
from obstore.exceptions import GenericError

from buckets import HANGS_UP, S3Server, answering, opened, s3_server
from stenopool.bucket import opening
from stenopool.bucket.failures import storage_error
from stenopool.bucket.objects import ObjectBucket
from stenopool.errors import StenoError, StorageError, StorageRefused, StorageUnavailable


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def server(running: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """With an empty bucket, and found by clients of this process."""
    running.use(monkeypatch)
    return running.with_bucket()


ACTS: dict[str, Callable[[ObjectBucket], object]] = {
    "prepare": lambda bucket: bucket.prepare(),
    "list": lambda bucket: list(bucket.keys("input")),
    "stamp": lambda bucket: bucket.stamp("a"),
    "read": lambda bucket: bucket.read("a"),
    "create": lambda bucket: bucket.create("a", "x"),
    "write": lambda bucket: bucket.write("a", "x"),
    "move": lambda bucket: bucket.move("a", "b"),
    "delete": lambda bucket: bucket.delete("a"),
    "delete below": lambda bucket: bucket.delete_below("a"),
    "local": lambda bucket: bucket.local("a").__enter__(),
}
MOST_SECONDS = 5.0
every_act = pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)


def check_error(act: Callable[[ObjectBucket], object], expected: type[StenoError]) -> None:
    bucket, start = opened(), time.monotonic()
    with pytest.raises(StorageError, match="`s3://bucket") as caught:
        act(bucket)
    assert type(caught.value) is expected
    assert time.monotonic() - start < MOST_SECONDS
    assert len(str(caught.value)) < 400
    assert "Debug" not in str(caught.value)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tries as ever, with shorter pauses."""
    pause = timedelta(milliseconds=1)
    pauses = {"init_backoff": pause, "max_backoff": 2 * pause, "base": 2}
    monkeypatch.setitem(opening._RETRIES, "backoff", pauses)


@every_act
@pytest.mark.usefixtures("hurried")
def test_server_in_trouble_is_asked_a_few_times_only(
    act: Callable[[ObjectBucket], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(503, "<Error><Code>SlowDown</Code></Error>") as server:
        server.use(monkeypatch)
        check_error(act, StorageUnavailable)
        assert len(server.asked) == 4


@pytest.mark.parametrize("status", [500, 502, 429, HANGS_UP])
@pytest.mark.usefixtures("hurried")
def test_trouble_that_passes_can_be_tried_again(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status) as server:
        server.use(monkeypatch)
        check_error(ACTS["write"], StorageUnavailable)


@every_act
@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (401, ""), (400, "ExpiredToken"), (301, "")]
)
def test_refusal_is_final(
    act: Callable[[ObjectBucket], object], status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status, f"<Error><Code>{code}</Code></Error>") as server:
        server.use(monkeypatch)
        check_error(act, StorageRefused)
        assert len(server.asked) == 1


@pytest.mark.parametrize("name", ["list", "read", "move", "delete", "local"])
def test_answer_that_is_cut_off_can_be_tried_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"ETag": '"a"', "Last-Modified": "Sat, 21 Nov 2026 17:00:00 GMT"}
    with answering(200, "<a>", length=1000, headers=headers) as server:
        server.use(monkeypatch)
        check_error(ACTS[name], StorageUnavailable)


@pytest.mark.parametrize("name", ["list", "delete", "move", "write"])
def test_answer_that_is_no_answer_can_be_tried_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(200, "Welcome to the hotel's network") as server:
        server.use(monkeypatch)
        check_error(ACTS[name], StorageUnavailable)


@pytest.mark.parametrize("name", ["list", "create", "local"])
def test_nobody_there_can_be_tried_again(
    name: str, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        check_error(ACTS[name], StorageUnavailable)


def test_server_that_says_nothing_is_left(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_READ_TIMEOUT", "100ms")  # the environment goes first
        check_error(ACTS["stamp"], StorageUnavailable)


@pytest.mark.parametrize("name", [name for name in ACTS if name not in {"stamp", "move", "local"}])
def test_missing_bucket_is_named(name: str, server: S3Server) -> None:
    with pytest.raises(StorageRefused, match="NoSuchBucket") as caught:
        ACTS[name](opened("s3://no-such-bucket"))
    assert "bucket's name" in caught.value.do


@every_act
def test_wrong_credentials_are_refused(
    act: Callable[[ObjectBucket], object], server: S3Server
) -> None:
    with enable_iam_authentication(), pytest.raises(StorageRefused):
        act(opened(server.url))


def test_deletion_that_is_not_permitted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = "<Error><Key>a</Key><Code>AccessDenied</Code><Message>No</Message></Error>"
    with answering(200, f"<DeleteResult>{refused}</DeleteResult>") as server:
        server.use(monkeypatch)
        check_error(ACTS["delete"], StorageRefused)


def test_machine_without_credentials_is_told_what_to_set() -> None:
    text = "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1s"
    error = storage_error(GenericError(text), "s3://bucket")
    assert type(error) is StorageRefused
    assert "AWS_ACCESS_KEY_ID" in error.do


def test_name_of_an_object_says_nothing_about_the_store() -> None:
    key = "http://169.254.169.254/x <Code>AccessDenied</Code>"
    text = f"Error performing GET https://host/{key} in 1s - HTTP error: error sending request"
    error = storage_error(GenericError(text), f"s3://bucket/{key}")
    assert type(error) is StorageUnavailable


def test_what_the_operating_system_refuses_is_named() -> None:
    error = storage_error(OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "s3://bucket")
    assert type(error) is StorageUnavailable
    assert "Too many open files" in str(error)
