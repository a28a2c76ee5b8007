"""URLs are fetched from the public internet only, whatever they and their names look like."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from houses import Receiver, receiver
from stenopool.service import remote
from stenopool.service.remote import (
    Remote,
    UrlFailed,
    UrlRefused,
    UrlUnreachable,
    check_url,
    is_public,
)

MOST = 1 << 20
PUBLIC = "93.184.216.34"


@pytest.fixture
def site() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


def fetch(url: str, path: Path, *, private: bool = False, most: int = MOST) -> bytes:
    """What a URL gives."""

    async def fetched() -> None:
        there = Remote(private=private)
        try:
            await there.fetch(url, path, most)
        finally:
            await there.close()

    asyncio.run(fetched())
    return path.read_bytes()


Names = Callable[..., None]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Sets what names lead to: each look-up gives the next list, the last one again and again."""
    real = socket.getaddrinfo

    def set_up(**given: list[list[str]]) -> None:
        left = {name.replace("_", "."): list(lists) for name, lists in given.items()}

        def look_up(host: Any, *more: Any, **named: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if name not in left:
                return real(host, *more, **named)
            found = left[name].pop(0) if len(left[name]) > 1 else left[name][0]
            return [one for address in found for one in real(address, *more, **named)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return set_up


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "127.0.0.1.",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "0.0.0.0",  # noqa: S104  to be refused
        "0",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "2852039166",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "198.18.0.1",
        "192.0.2.1",
        "203.0.113.7",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::1]",
        "[2002:7f00:1::]",
        "[2001::1]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[100::1]",
    ],
)
def test_internal_addresses_are_refused_however_they_are_written(host: str, tmp_path: Path) -> None:
    with pytest.raises((UrlRefused, UrlUnreachable)) as refused:
        fetch(f"http://{host}/", tmp_path / "file")
    # The few that this machine's resolver takes for no address lead nowhere either.
    assert refused.type is UrlRefused or "not known" in str(refused.value)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    "address",
    [PUBLIC, "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "192.88.98.1"],
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


def test_address_of_an_interface_is_not_public() -> None:
    assert not is_public("2606:4700::1111%eth0")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/etc/passwd",
        "//example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "ftp://example.com/a.wav",
        "data:audio/wav;base64,AAAA",
        "dict://127.0.0.1:11211/stat",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
        "javascript:alert(1)",
        "http://",
        "http:///path",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://:@example.com/",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://exa mple.com/",
        "http://exa%00mple.com/",
        "http://example.com\n.evil/",
        "http://[fe80::1%25eth0]/",
        "http://[::1",
        "http://１２７.0.0.1/",
        "http://ⓛocalhost/",
        "http://example.com/" + "a" * 5000,
    ],
)
def test_what_is_no_plain_url_of_http_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(UrlRefused):
        check_url(url)
    with pytest.raises(UrlRefused):
        fetch(url, tmp_path / "file", private=True)


def test_plain_urls_pass() -> None:
    for url in ("http://example.com", "HTTPS://Example.COM:8443/a%20b?c=d#e", "http://münchen.de/"):
        check_url(url)


@pytest.mark.parametrize(
    "found",
    [["127.0.0.1"], ["169.254.169.254"], [PUBLIC, "10.0.0.1"], ["::1"], ["fd00:ec2::254"]],
)
@pytest.mark.parametrize("name", ["metadata.google.internal", "recordings.example"])
def test_name_that_leads_inside_is_refused(
    name: str, found: list[str], names: Names, tmp_path: Path
) -> None:
    names(**{name.replace(".", "_"): [found]})
    with pytest.raises(UrlRefused, match="not on the public internet"):
        fetch(f"http://{name}/", tmp_path / "file")


def test_name_that_leads_elsewhere_at_the_second_look_is_looked_up_once(
    names: Names, site: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[str] = []
    inner = httpx2.AsyncHTTPTransport.handle_async_request

    async def noted(transport: Any, request: Any) -> Any:
        connected.append(request.url.host)
        raise httpx2.ConnectError("as far as this test goes")

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", noted)
    names(rebound_example=[[PUBLIC], ["127.0.0.1"]])
    with pytest.raises(UrlUnreachable):
        fetch(f"{site.url.replace('127.0.0.1', 'rebound.example')}/", tmp_path / "file")
    assert connected == [PUBLIC]
    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", inner)
    assert site.calls == []


def test_the_request_is_made_in_the_name_of_the_host(
    names: Names, site: Receiver, tmp_path: Path
) -> None:
    names(recordings_example=[["127.0.0.1"]])
    site.pages["/a.wav?b=c"] = 200, {"Set-Cookie": "a=b"}, b"sound"
    url = f"{site.url.replace('127.0.0.1', 'recordings.example')}/a.wav?b=c"
    assert fetch(url, tmp_path / "file", private=True) == b"sound"
    (call,) = site.calls
    assert call.headers["host"].startswith("recordings.example:")
    assert not {"cookie", "authorization", "referer"} & set(call.headers)


def test_another_address_is_tried_where_one_is_dead(
    names: Names, site: Receiver, tmp_path: Path
) -> None:
    names(recordings_example=[["127.0.0.2", "127.0.0.1"]])  # nobody listens on the first
    site.pages["/a"] = 200, {}, b"sound"
    url = f"{site.url.replace('127.0.0.1', 'recordings.example')}/a"
    assert fetch(url, tmp_path / "file", private=True) == b"sound"


def test_redirects_are_followed_without_cookies(site: Receiver, tmp_path: Path) -> None:
    site.pages["/1"] = 302, {"Location": "/2", "Set-Cookie": "a=b"}, b""
    site.pages["/2"] = 307, {"Location": f"{site.url}/3"}, b""
    site.pages["/3"] = 200, {}, b"sound"
    assert fetch(f"{site.url}/1", tmp_path / "file", private=True) == b"sound"
    assert [one.path for one in site.calls] == ["/1", "/2", "/3"]
    assert not any("cookie" in one.headers for one in site.calls)


def test_redirects_without_end_are_given_up(site: Receiver, tmp_path: Path) -> None:
    site.pages["/1"] = 302, {"Location": "/1"}, b""
    with pytest.raises(UrlFailed, match="redirects"):
        fetch(f"{site.url}/1", tmp_path / "file", private=True)
    assert len(site.calls) == remote.MOST_REDIRECTS + 1


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "//[::1]/",
        "http://inside.example/",
    ],
)
def test_redirect_inside_is_refused(
    location: str, site: Receiver, names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The site passes for a public one; where it sends us does not.
    monkeypatch.setattr(
        remote, "is_public", lambda address: address == "127.0.0.1" and not site.calls
    )
    names(inside_example=[["10.0.0.1"]])
    site.pages["/"] = 302, {"Location": location}, b""
    with pytest.raises(UrlRefused):
        fetch(f"{site.url}/", tmp_path / "file")
    assert len(site.calls) == 1


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "gopher://x/", "http://a:b@x/", "http://["]
)
def test_redirect_to_no_plain_url_is_refused(location: str, site: Receiver, tmp_path: Path) -> None:
    site.pages["/"] = 302, {"Location": location}, b""
    with pytest.raises(UrlRefused):
        fetch(f"{site.url}/", tmp_path / "file", private=True)


def test_too_large_a_file_is_refused_before_it_is_read(site: Receiver, tmp_path: Path) -> None:
    site.pages["/"] = 200, {}, b"x" * 11
    with pytest.raises(UrlFailed, match="larger than 10 bytes"):
        fetch(f"{site.url}/", tmp_path / "file", private=True, most=10)
    assert fetch(f"{site.url}/", tmp_path / "file", private=True, most=11) == b"x" * 11


def test_file_that_lies_about_its_size_is_cut_off(site: Receiver, tmp_path: Path) -> None:
    site.pages["/"] = 200, {"Content-Length": "", "Connection": "close"}, b"x" * (4 << 20)
    with pytest.raises((UrlFailed, UrlUnreachable)):
        fetch(f"{site.url}/", tmp_path / "file", private=True, most=1 << 20)


def test_what_is_packed_is_not_unpacked(site: Receiver, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(8 << 20))
    site.pages["/"] = 200, {"Content-Encoding": "gzip"}, bomb
    assert fetch(f"{site.url}/", tmp_path / "file", private=True) == bomb


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, UrlFailed),
        (403, UrlFailed),
        (206, UrlFailed),
        (503, UrlUnreachable),
        (429, UrlUnreachable),
    ],
)
def test_status_says_whether_trying_again_helps(
    status: int, kind: type[UrlFailed], site: Receiver, tmp_path: Path
) -> None:
    site.pages["/"] = status, {}, b"x"
    with pytest.raises(UrlFailed, match=str(status)) as failed:
        fetch(f"{site.url}/", tmp_path / "file", private=True)
    assert failed.type is kind
    assert failed.value.transient == (kind is UrlUnreachable)


def test_file_that_ends_early_may_be_tried_again(site: Receiver, tmp_path: Path) -> None:
    site.pages["/"] = 200, {"Content-Length": "100", "Connection": "close"}, b"x"
    with pytest.raises(UrlUnreachable):
        fetch(f"{site.url}/", tmp_path / "file", private=True)


def test_slow_site_is_given_up(
    site: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FETCH_SECONDS", 0.3)
    site.pause = 0.1
    site.pages["/"] = 200, {}, b"x" * (1 << 20)
    with pytest.raises(UrlFailed, match="took longer") as failed:
        fetch(f"{site.url}/", tmp_path / "file", private=True)
    assert not failed.value.transient


def test_silent_site_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENCE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(UrlUnreachable, match="no answer in time"):
            fetch(f"http://127.0.0.1:{port}/", tmp_path / "file", private=True)


def test_nobody_there_may_be_tried_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(UrlUnreachable):
        fetch(f"http://127.0.0.1:{port}/secret?token=abc", tmp_path / "file", private=True)


def test_errors_do_not_tell_what_may_be_secret(site: Receiver, tmp_path: Path) -> None:
    for private, kind in ((True, UrlFailed), (False, UrlRefused)):
        with pytest.raises(kind) as failed:
            fetch(f"{site.url}/a?token=abc", tmp_path / "file", private=private)
        assert "abc" not in str(failed.value.record())


def test_proxies_of_the_environment_are_not_used(
    site: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pages["/"] = 200, {}, b"sound"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(f"{site.url}/", tmp_path / "file", private=True) == b"sound"


@contextmanager
def secure_site(folder: Path, name: str) -> Iterator[int]:
    """A site with a certificate for a name; gives its port. Its own authority is `ca.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(called, called, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    (folder / "ca.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    with receiver(secure=context) as site:
        site.pages["/"] = 200, {}, b"sound"
        yield int(site.url.rpartition(":")[2])


@pytest.mark.parametrize(("called", "passes"), [("mine.example", True), ("other.example", False)])
def test_certificate_must_be_that_of_the_name(
    called: str, passes: bool, names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(mine_example=[["127.0.0.1"]])
    with secure_site(tmp_path, called) as port:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        url = f"https://mine.example:{port}/"
        if passes:
            assert fetch(url, tmp_path / "file", private=True) == b"sound"
        else:
            with pytest.raises(UrlUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
                fetch(url, tmp_path / "file", private=True)


def test_post_gives_the_status_and_follows_no_redirect(site: Receiver) -> None:
    async def posted() -> int:
        there = Remote(private=True)
        try:
            return await there.post(f"{site.url}/hook", "{}", {"webhook-id": "1"})
        finally:
            await there.close()

    site.statuses = [302]
    assert asyncio.run(posted()) == 302
    (call,) = site.calls
    assert (call.path, call.body, call.headers["webhook-id"]) == ("/hook", b"{}", "1")


def test_post_inside_is_refused(site: Receiver) -> None:
    with pytest.raises(UrlRefused):
        asyncio.run(Remote().post(f"{site.url}/hook", "{}", {}))
    assert site.calls == []
