"""From a URL to the bucket that it names."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from stenopool.bucket.addressing import check_object_key
from stenopool.bucket.base import Bucket
from stenopool.bucket.folder import FolderBucket
from stenopool.errors import StenoError, UsageError

if TYPE_CHECKING:
    from stenopool.bucket.objects import ObjectBucket

# What each scheme is called in URLs of ours, and how its settings begin in the environment.
_SCHEMES = {
    "s3": ("s3", "AWS"),
    "gs": ("gs", "GOOGLE"),
    "az": ("az", "AZURE"),
    "abfs": ("az", "AZURE"),
    "abfss": ("az", "AZURE"),
}
_OBJECTS = re.compile(r"([A-Za-z0-9]+)://([^/]*)/?(.*)", re.DOTALL)
_CONTAINER = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?(?:@[A-Za-z0-9.-]+)?", re.ASCII)

# The caller tries again with pauses of its own, so obstore gives up early. 30 s are the longest
# silence, not a limit for the whole: a copy within S3 takes longer for each 5 GB, and tells so.
_RETRIES: Any = {
    "max_retries": 3,
    "backoff": {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=1),
        "base": 2,
    },
    "retry_timeout": timedelta(seconds=10),
}
_TIMEOUTS = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "300s"}

# Given any of these in Python, obstore forgets what the environment says of all of them.
_CLIENT_SETTINGS = (
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "http1_only",
    "http2_only",
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
    "read_timeout",
    "root_certificate",
    "timeout",
    "user_agent",
)
_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
    "GOOGLE_BASE_URL",
)


def open_bucket(url: str) -> Bucket:
    """The bucket that a URL or a folder's path names.

    `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` and `abfs://` name object
    stores; keys are relative to the prefix, which stands as it is, without percent-encoding.
    Credentials, region and endpoint come from the environment variables that the clouds' own tools
    read (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on) or from the machine's role in its cloud.
    obstore does not read `~/.aws`. Nothing is asked of the store here.

    Raises:
        UsageError: another scheme, no such folder, or no name of a bucket.
    """
    found = _OBJECTS.fullmatch(url)
    if found is None or found[1].lower() not in _SCHEMES:
        return FolderBucket.open(url)
    scheme, container, prefix = found[1].lower(), found[2], found[3].rstrip("/")
    name, service = _SCHEMES[scheme]
    if not _CONTAINER.fullmatch(container):
        raise _not_a_bucket(url, f"`{container}` is not a name")
    if prefix:
        check_object_key(prefix)
    if "@" in container:  # an account is part of `abfs` URLs only
        name = scheme
    canonical = f"{name}://{container}" + (f"/{prefix}" if prefix else "")
    return _connected(f"{scheme}://{container}", service, canonical, prefix)


def _connected(address: str, service: str, canonical: str, prefix: str) -> ObjectBucket:
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    from stenopool.bucket.objects import ObjectBucket

    options: Any = _client_options(service)
    try:
        store = from_url(address, client_options=options, retry_config=_RETRIES)
    except (BaseError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise _not_a_bucket(canonical, reason) from error
    return ObjectBucket(store, canonical, prefix)


def _client_options(service: str) -> dict[str, str]:
    given = {
        name: value
        for name in _CLIENT_SETTINGS
        if (value := os.environ.get(f"{service}_{name.upper()}"))
    }
    endpoints = [os.environ.get(name, "") for name in _ENDPOINTS if name.startswith(service)]
    plain = {"allow_http": "true"} if any(_is_plain(one) for one in endpoints) else {}
    return {**_TIMEOUTS, **plain, **given}


def _is_plain(endpoint: str) -> bool:
    return endpoint.lower().startswith("http://")


def _not_a_bucket(url: str, reason: str) -> StenoError:
    return UsageError(
        f"cannot open `{url}`: {reason}",
        do="Check the URL, as in `s3://bucket/folder`, and the environment variables of the store",
    )
