"""What stands beside a recording in `failed/`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from stenopool.bucket import Key
from stenopool.errors import StenoError
from stenopool.text import encodable

ERROR_SCHEMA = "stenopool.error/1"


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
    # The exact name is that of the file beside it.
    return encodable(json.dumps(data, ensure_ascii=False, indent=2) + "\n")
