"""Listings of S3 buckets that hold names which obstore cannot address.

obstore parses every name in a page of 1,000, and one that has `.`, `..`, an empty part or an ASCII
control character makes it drop the page and end the listing: measured with obstore 0.12 on S3. So
whoever may put one file into a bucket could hide all others. Here the same pages are read without
obstore, which still gives the address and signs it with its credentials.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import urlopen
from xml.etree import ElementTree

import obstore
from obstore.store import S3Store

from stenopool.bucket.base import Key, Stamp
from stenopool.bucket.failures import named, refusal
from stenopool.errors import StorageUnavailable

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_VALID = timedelta(minutes=5)  # of a signed address
_SILENCE = 30.0  # seconds


def raw_pages(
    store: S3Store, place: str, prefix: str, after: str
) -> Iterator[list[tuple[Key, Stamp]]]:
    """The names below a prefix as they are, in byte order, with their stamps.

    Args:
        store: without a prefix of its own.
        place: the bucket's URL, for messages.
        prefix: what names begin with: a folder's name and `/`, or nothing.
        after: names up to this one are left out.

    Raises:
        StorageError: by name.
    """
    more = True
    while more:
        answer = _answer(_signed(store, place, prefix, after), place)
        encoded = answer.findtext("{*}EncodingType") == "url"
        page = [_entry(one, encoded=encoded) for one in answer.iterfind("{*}Contents")]
        yield page
        more = answer.findtext("{*}IsTruncated") == "true" and bool(page)
        after = page[-1][0] if page else after


def stamp_of(size: int, modified: datetime, tag: str | None) -> Stamp:
    """The stamp of an object. Listings tell time to the millisecond, and headers to the second."""
    bare = (tag or "").removeprefix("W/").strip('"')
    return Stamp(size, int(modified.timestamp()) * 1_000_000_000, bare)


def _signed(store: S3Store, place: str, prefix: str, after: str) -> str:
    query = {"list-type": "2", "encoding-type": "url", "start-after": after}
    # obstore signs addresses of objects only: an endpoint, a `/`, and a name, here an empty one. So
    # the question is put into the endpoint, and its last value has to end in that `/`.
    last = {"prefix": prefix.removesuffix("/")} if prefix else {"x-id": "ListObjectsV2"}
    with named(place):
        bucket = urlsplit(obstore.sign(store, "GET", "", _VALID))
        address = f"{bucket.scheme}://{bucket.netloc}{bucket.path.rstrip('/')}"
        endpoint = f"{address}?{urlencode(query | last)}"
        config: Any = {
            **store.config,
            "endpoint": endpoint,
            "aws_endpoint_url_s3": endpoint,  # goes first where the environment has it
            "virtual_hosted_style_request": True,  # the bucket's name is in the endpoint
        }
        signing = S3Store(
            config=config,
            client_options=store.client_options,
            credential_provider=store.credential_provider,
        )
        return obstore.sign(signing, "GET", "", _VALID)


def _answer(url: str, place: str) -> Element:
    try:
        with closing(urlopen(url, timeout=_SILENCE)) as response:  # noqa: S310  ours, and signed
            return ElementTree.fromstring(response.read())  # noqa: S314  from the user's own store
    except HTTPError as error:
        with error:
            raise refusal(error.code, place) from None  # the address in it is as good as a key
    except (OSError, HTTPException, ElementTree.ParseError) as error:
        raise StorageUnavailable(
            f"cannot list `{place}`: {type(error).__name__}",
            do="Try again later; check the network and the store's status",
        ) from None


def _entry(element: Element, *, encoded: bool) -> tuple[Key, Stamp]:
    key = element.findtext("{*}Key", "")
    modified = datetime.fromisoformat(element.findtext("{*}LastModified", "1970-01-01T00:00:00Z"))
    size = int(element.findtext("{*}Size", "0"))
    stamp = stamp_of(size, modified, element.findtext("{*}ETag"))
    return unquote(key.replace("+", " ")) if encoded else key, stamp
