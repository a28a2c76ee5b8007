"""What stands beside a recording in `failed/`."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from stenopool.bucket import Key
from stenopool.errors import StenoError

ERROR_SCHEMA = "stenopool.error/1"

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def error_record(key: Key, error: StenoError, attempts: int) -> str:
    """The error record as a JSON document.

    Args:
        key: the recording's name under `input/`.
        error: why it cannot be transcribed.
        attempts: how often that was tried, with the times when the process died.
    """
    data = {
        "schema": ERROR_SCHEMA,
        "key": key,
        **error.record(),
        "attempts": attempts,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # Not every JSON reader takes lone surrogates; the exact name is that of the file beside it.
    text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
    return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
