"""Which names obstore can address: fewer than an object store can hold."""

from __future__ import annotations

import re

from stenopool.bucket.base import Key, check_key
from stenopool.errors import InputUnreadable, UsageError

_REFUSED = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def check_object_key(key: Key) -> None:
    """Refuse what obstore cannot address.

    Raises:
        UsageError: `check_key` refuses it, it has ASCII control characters, or it is not UTF-8.
    """
    check_key(key)
    if _REFUSED.search(key):
        raise UsageError(
            f"not a key of an object store: `{key}`", do="Use no control characters, and UTF-8"
        )


def is_addressable(key: Key) -> bool:
    """Whether `check_object_key` takes it."""
    try:
        check_object_key(key)
    except UsageError:
        return False
    return True


def unaddressable(key: Key) -> InputUnreadable:
    """The error for a name that was found in a store, and cannot be worked on."""
    return InputUnreadable(
        f"`{key}` has a name that cannot be read, and was passed over",
        do="Give it a name without control characters, `.`, `..` and empty parts",
    )
