"""A job: one state of one recording to be transcribed in one way."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self
from urllib.parse import quote_from_bytes, unquote_to_bytes

from stenopool.bucket import Key, Stamp
from stenopool.decoding.options import Options
from stenopool.text import encodable

PROTOCOL = "1"
"""Version of what processes tell each other through the database and `work/`.

Queues bear it, so processes of another protocol never see these jobs.
"""

COMMIT = "json"  # the format that appears last
ANY_DEVICE = "auto"
FILES, SPANS = "files", "spans"


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """Jobs that one process can do: it holds one model on one device.

    Attributes:
        model: name or folder.
        engine: name or `auto`.
        device: `cpu`, `cuda`, or `auto` for any.
    """

    model: str
    engine: str = "auto"
    device: str = ANY_DEVICE

    def queue(self, kind: str, *, alone: bool = False, reserved: str = "") -> str:
        """The queue of its recordings or spans.

        Args:
            kind: `files` or `spans`.
            alone: for those that were there when a process died: one at a time.
            reserved: for the workers of one child of a batch.
        """
        parts = [PROTOCOL, self.device, self.engine, kind, "alone" if alone else "", reserved]
        return "/".join([*parts, self.model])  # the model last: it may be a path

    @classmethod
    def of_queue(cls, name: str) -> tuple[Self, bool, str] | None:
        """The group of a queue, whether it is for one at a time, and whom it is reserved for."""
        parts = name.split("/", 6)
        if len(parts) != 7 or parts[0] != PROTOCOL:
            return None
        _, device, engine, _, alone, reserved, model = parts
        return cls(model, engine, device), bool(alone), reserved

    @staticmethod
    def kind_of_queue(name: str) -> str:
        """`files` or `spans`, of a queue that `of_queue` knows."""
        return name.split("/", 4)[3]


@dataclass(frozen=True, slots=True)
class Job:
    """What to do, as it is kept in the database.

    Attributes:
        bucket: its URL.
        key: the recording, below `input/`.
        stamp: the state of the recording that is meant.
        group: which processes can do it.
        formats: of the documents; `json` is the last.
        options: changes from the defaults.
        batch: the batch that it belongs to, if any.
        child: which of the batch's lists.
        outside: whether only the workers of that child may do it.
        refused: record of an error that the job fails with, such as a sidecar that is no JSON.
        patience: seconds for which trouble with the storage is borne before the job gives up.
    """

    bucket: str
    key: Key
    stamp: Stamp
    group: Group
    formats: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    batch: str = ""
    child: int = 0
    outside: bool = False
    refused: Mapping[str, Any] | None = None
    patience: float = 86_400.0

    @property
    def reserved(self) -> str:
        """Marks the queues that only its child's workers serve; empty for the common ones."""
        return f"{self.batch}.{self.child}" if self.outside else ""

    def queue(self, kind: str, *, alone: bool = False) -> str:
        """The queue that it, or a span of it, waits in; see `Group.queue`."""
        return self.group.queue(kind, alone=alone, reserved=self.reserved)

    @property
    def digest(self) -> str:
        """The same for every process that sees this state of this recording."""
        return bucket_digest(self.bucket) + _digest(self.key) + _digest(json.dumps(self.stamp))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**asdict(self), "key": _written(self.key)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError: a field is missing or unknown.
        """
        given = dict(data)
        given["key"] = _read(given["key"])
        given["stamp"] = Stamp(*given["stamp"])
        given["group"] = Group(**given["group"])
        given["formats"] = tuple(given["formats"])
        return cls(**given)


def bucket_digest(url: str) -> str:
    """What the ids of all jobs of a bucket begin with; the key's digest follows."""
    return _digest(url)


def key_digest(url: str, key: Key) -> str:
    """What the ids of all jobs of a recording begin with."""
    return bucket_digest(url) + _digest(key)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _written(key: Key) -> str:
    """A key as databases take it: they refuse what is not UTF-8. No key begins with `/`."""
    return key if encodable(key) == key else f"/{quote_from_bytes(os.fsencode(key))}"


def _read(text: str) -> Key:
    return os.fsdecode(unquote_to_bytes(text[1:])) if text.startswith("/") else text


def changes(options: Options) -> dict[str, Any]:
    """The options that differ from the defaults, ready for JSON."""
    usual = Options()
    return {
        entry.name: getattr(options, entry.name)
        for entry in fields(Options)
        if getattr(options, entry.name) != getattr(usual, entry.name)
    }


def numbered(digest: str, generation: int) -> str:
    """The id of a job: the same recording put back unchanged is a job of a later generation."""
    return f"{digest}-{generation}"


def generation_of(job_id: str) -> int:
    return int(job_id.rpartition("-")[2])


def span_prefix(job_id: str) -> str:
    """What the ids of a job's spans begin with."""
    return f"{job_id}.s"
