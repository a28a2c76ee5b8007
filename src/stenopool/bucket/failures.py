"""What an object store's failure means: can trying again help, and what is there to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore import exceptions

from stenopool.errors import StorageError, StorageRefused, StorageUnavailable

# obstore gives some failures a class, and leaves others to the text that it makes of them.
_STATUS = re.compile(r"non-2xx status code: (\d{3})([^:\n]*)")
_CODE = re.compile(r"<Code>(\w+)</Code>")  # in the answer that follows
_NOT_DELETED = re.compile(r"DeleteFailed \{[^}]*?\bcode: \"(\w+)\"")
_NO_CREDENTIALS = re.compile(
    r"Error performing [A-Z]+ http://(?:169\.254\.[\d.]+|metadata\.google\.internal)[:/]"
)

# S3 says 400 to a client that was too slow.
_PASSING = frozenset({"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable"})
_FORBIDDEN = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
_PASSING_STATUSES = frozenset({408, 409, 425, 429})

_REFUSALS = (
    exceptions.PermissionDeniedError,
    exceptions.UnauthenticatedError,
    exceptions.UnknownConfigurationKeyError,
    FileNotFoundError,  # what asks for a file that may be missing knows it before
)
_LIMITS = (
    exceptions.NotSupportedError,
    exceptions.InvalidPathError,
    NotImplementedError,
    ValueError,
)


@contextmanager
def named(place: str) -> Iterator[None]:
    """Gives what obstore raises one of our names.

    Args:
        place: the URL of what is worked on, for the message.

    Raises:
        StorageUnavailable: the store cannot be reached or is in trouble.
        StorageRefused: it does not permit this, or there is no such bucket.
        StorageError: it cannot do this.
    """
    try:
        yield
    except (exceptions.BaseError, OSError, ValueError, NotImplementedError) as error:
        raise storage_error(error, place) from error


def is_bucket_missing(error: FileNotFoundError) -> bool:
    """Whether it is the bucket that was not found; the answer to a HEAD never says so."""
    text = str(error)
    status = _STATUS.search(text)
    return status is not None and _code(text, status) == "NoSuchBucket"


def storage_error(error: Exception, place: str) -> StorageError:
    """The error that stands for what obstore raised."""
    text = str(error).partition("\n\nDebug source")[0]
    if _NO_CREDENTIALS.search(text):
        return StorageRefused(
            f"no credentials for `{place}`: none are set, and this machine has none of its own",
            do="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what your cloud has for them",
        )
    what = f"cannot work on `{place}`: {_reason(text)}"
    if isinstance(error, _LIMITS):
        return StorageError(what, do="Use another key or another store")
    if isinstance(error, _REFUSALS) or _is_refusal(str(error)):
        return StorageRefused(
            what, do="Check the bucket's name, region and endpoint, and what the credentials permit"
        )
    return StorageUnavailable(what, do="Try again later; check the network and the store's status")


def refusal(status: int, place: str) -> StorageError:
    """The error for an answer of a server that is no answer."""
    kind = StorageRefused if _is_refused(status) else StorageUnavailable
    return kind(
        f"cannot work on `{place}`: the server said {status}",
        do="Check what the credentials permit, and the store's status",
    )


def _is_refusal(text: str) -> bool:
    status = _STATUS.search(text)
    if status:
        return _code(text, status) not in _PASSING and _is_refused(int(status[1]))
    left = _NOT_DELETED.search(text)
    return (left is not None and left[1] in _FORBIDDEN) or "redirect without LOCATION" in text


def _is_refused(status: int) -> bool:
    return 300 <= status < 500 and status not in _PASSING_STATUSES


def _code(text: str, status: re.Match[str]) -> str:
    found = _CODE.search(text, status.end())
    return found[1] if found else ""


def _reason(text: str) -> str:
    """The shortest part that says why: the server's status and code, or the end of the text."""
    status = _STATUS.search(text)
    if status:
        return f"{status[1]}{status[2]} {_code(text, status)}".strip()
    return text.rpartition(" - ")[2][:300]
