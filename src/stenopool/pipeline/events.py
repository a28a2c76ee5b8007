"""What happens, as structured logs: one JSON object a line. Never the text of a transcript."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from stenopool.text import encodable

_LOG = logging.getLogger("stenopool.events")


def event(name: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Log that something happened."""
    _LOG.log(level, name, extra={"fields": fields})


def show_events() -> None:
    """Write the events to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = getattr(record, "fields", {})
        data = {
            "time": moment,
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **fields,
        }
        return encodable(json.dumps(data, ensure_ascii=False, default=str))
