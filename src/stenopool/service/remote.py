"""Other people's servers, and never one of the internal network.

A name is looked up once, all its addresses are checked, and the connection is made to one of these:
a name that leads elsewhere a moment later (DNS rebinding) gains nothing. Redirects are followed by
hand, each checked like the first. Nothing is sent that could identify the server: no cookies, no
credentials. Proxies of the environment are not used, because they would look names up themselves.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import ClassVar

import httpx2
from starlette.concurrency import run_in_threadpool

from stenopool import __version__
from stenopool.errors import InputError, UsageError
from stenopool.files import output_error

FETCH_SECONDS = 3600.0
POST_SECONDS = 20.0
LOOKUP_SECONDS = 10.0
SILENCE_SECONDS = 30.0
MOST_REDIRECTS = 5
MOST_ADDRESSES = 4  # of one name that are tried

_AGENT = f"stenopool/{__version__}"
_LONGEST_URL = 4096
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")  # of names, and of addresses in brackets
_ALLOTTED = IPv6Network("2000::/3")
_TRANSLATED = IPv6Network("64:ff9b::/96")  # the IPv4 internet, where there is IPv6 only
_REFUSED = [  # that Python, or some of its versions, takes for public
    ip_network(one)
    for one in (
        "168.63.129.16/32",  # the host of a virtual machine at Azure
        "192.0.0.0/24",
        "192.88.99.0/24",
        "2002::/16",  # IPv4 in IPv6, which no network carries any more
        "3fff::/20",
    )
]
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class UrlRefused(UsageError):  # noqa: N818  the names say what happened
    """The server does not go where this URL leads."""

    code: ClassVar[str] = "url_refused"


class UrlFailed(InputError):  # noqa: N818
    """What this URL names cannot be had."""

    code: ClassVar[str] = "url_failed"


class UrlUnreachable(UrlFailed):
    """What this URL names cannot be had now."""

    code: ClassVar[str] = "url_unreachable"
    transient: ClassVar[bool] = True


class Remote:
    """Fetches from and sends to other servers.

    Args:
        private: whether internal ones are permitted too.
    """

    def __init__(self, *, private: bool = False) -> None:
        self._client = httpx2.AsyncClient(
            transport=_Pinned(private=private),
            timeout=httpx2.Timeout(SILENCE_SECONDS, connect=LOOKUP_SECONDS),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={"user-agent": _AGENT, "accept": "*/*", "accept-encoding": "identity"},
            trust_env=False,
        )

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def fetch(self, url: str, path: Path, most_bytes: int) -> None:
        """Write what a URL names to a file.

        Raises:
            UrlRefused: it, or what it redirects to, is not permitted.
            UrlFailed: it cannot be had; UrlUnreachable where that may pass.
            OutputError: the file cannot be written.
        """
        try:
            async with asyncio.timeout(FETCH_SECONDS), self._followed(url) as response:
                _refuse_status(response)
                await _write(response, path, most_bytes)
        except TimeoutError as error:
            raise UrlFailed(
                f"`{_host(url)}` took longer than {FETCH_SECONDS:.0f} s",
                do="Use a faster server, or upload the recording",
            ) from error
        except httpx2.HTTPError as error:
            raise UrlUnreachable(
                f"`{_host(url)}`: {_reason(error)}", do="Check the URL, or try again later"
            ) from error

    async def post(self, url: str, content: str, headers: Mapping[str, str]) -> int:
        """Send something, following no redirect; gives the status of the answer.

        Raises:
            UrlRefused: it is not permitted to go there.
            UrlUnreachable: there was no answer in time.
        """
        checked = check_url(url)
        try:
            async with (
                asyncio.timeout(POST_SECONDS),
                self._client.stream(
                    "POST", checked, content=content.encode(), headers=headers
                ) as response,
            ):
                return response.status_code
        except (TimeoutError, httpx2.HTTPError) as error:
            raise UrlUnreachable(
                f"`{checked.host}`: {_reason(error)}", do="Check the URL, or try again later"
            ) from error

    @asynccontextmanager
    async def _followed(self, url: str) -> AsyncIterator[httpx2.Response]:
        for _ in range(MOST_REDIRECTS + 1):
            checked = check_url(url)
            async with self._client.stream("GET", checked) as response:
                if not response.has_redirect_location:
                    yield response
                    return
                url = _joined(checked, response.headers["location"])
        raise UrlFailed(f"more than {MOST_REDIRECTS} redirects", do="Give the final URL")


class _Pinned(httpx2.AsyncBaseTransport):
    """Connects to the addresses that were checked, in the name of the host."""

    def __init__(self, *, private: bool) -> None:
        self._private = private
        # No connection is used twice: the pool would tell them apart by address, not by name.
        self._inner = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        name = request.url.raw_host.decode("ascii")
        found = await addresses(name, private=self._private)
        failure: httpx2.HTTPError | None = None
        for address in found[:MOST_ADDRESSES]:
            request.url = request.url.copy_with(host=address)
            request.extensions = {**request.extensions, "sni_hostname": name}
            try:
                return await self._inner.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error
        raise failure or httpx2.ConnectError("no address")

    async def aclose(self) -> None:
        await self._inner.aclose()


def check_url(url: str) -> httpx2.URL:
    """A URL that could be fetched, as far as can be said without looking its name up.

    Raises:
        UrlRefused: it is none, or not of HTTP, or has credentials.
    """
    try:
        parsed = httpx2.URL(url) if len(url) <= _LONGEST_URL else httpx2.URL()
    except (httpx2.InvalidURL, UnicodeError, TypeError) as error:
        raise UrlRefused("this is no URL", do="Use `https://host/path`") from error
    if parsed.scheme not in {"http", "https"}:
        raise UrlRefused("only HTTP URLs are fetched", do="Use `https://host/path`")
    if parsed.userinfo:
        raise UrlRefused("URLs must not have credentials", do="Use a signed URL, or upload")
    if not _HOST.fullmatch(parsed.raw_host.decode("ascii")):
        raise UrlRefused("this URL has no proper host", do="Use `https://host/path`")
    if parsed.port is not None and not 0 < parsed.port < 65_536:
        raise UrlRefused("this URL has no proper port", do="Use `https://host/path`")
    return parsed


async def addresses(host: str, *, private: bool = False) -> list[str]:
    """The addresses of a host.

    Raises:
        UrlRefused: one of them is not public, and only those are permitted.
        ConnectError: of httpx: it is not known.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise httpx2.ConnectError("the host is not known") from error
    known = list(dict.fromkeys(str(place[0]) for *_, place in found))
    if not private and not all(is_public(one) for one in known):
        raise UrlRefused(
            f"`{host}` is not on the public internet",
            do="Use a public address; or set `STENO_ALLOW_PRIVATE_URLS`",
        )
    return known


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet."""
    if "%" in address:
        return False
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped
        if ip in _TRANSLATED:
            inner = IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip not in _ALLOTTED:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in one for one in _REFUSED)


def _joined(url: httpx2.URL, location: str) -> str:
    try:
        return str(url.join(location))
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise UrlRefused("it redirects to what is no URL", do="Give the final URL") from error


def _refuse_status(response: httpx2.Response) -> None:
    if response.status_code == 200:
        return
    kind = UrlUnreachable if response.status_code in _TRANSIENT else UrlFailed
    raise kind(f"the answer was {response.status_code}", do="Check that the URL can be fetched")


async def _write(response: httpx2.Response, path: Path, most_bytes: int) -> None:
    length = response.headers.get("content-length", "")
    _refuse_large(int(length) if length.isdecimal() else 0, most_bytes)
    written = 0
    try:
        with path.open("wb") as file:
            async for chunk in response.aiter_raw():  # not unpacked: 10 MB could become 10 GB
                written += len(chunk)
                _refuse_large(written, most_bytes)
                await run_in_threadpool(file.write, chunk)
    except OSError as error:
        raise output_error(path, error) from error


def _refuse_large(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise UrlFailed(
            f"it is larger than {most_bytes} bytes", do="Put large recordings into the bucket"
        )


def _host(url: str) -> str:
    """All of a URL that is told: the rest may be secret."""
    return check_url(url).host


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__
