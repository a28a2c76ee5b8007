"""Which model is the default of this machine, and how it came to be: `promotions.jsonl`.

Each line is a decision: `promoted`, `refused`, or `demoted`, which takes back the promotion before.
The default follows from the lines, so that there is no promotion without its record, and a line is
there whole or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from stenopool.errors import ModelDamaged, PromotionRefused
from stenopool.models.catalogue import USUAL
from stenopool.models.files import regular
from stenopool.models.workspace import exists, writing

FILE = "promotions.jsonl"
PROMOTED, REFUSED, DEMOTED = "promoted", "refused", "demoted"

Record = dict[str, Any]


class Promotions:
    """The decisions that were made in one models folder.

    Args:
        root: the models folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / FILE

    def records(self) -> list[Record]:
        """All decisions, in order.

        Raises:
            ModelDamaged: a line is none of ours.
        """
        if not exists(self._path):
            return []
        try:
            return self._parsed(regular(self._path).read_bytes())
        except OSError as error:
            raise self._damaged(f"cannot be read: {error.strerror}") from error

    def of(self, name: str) -> list[Record]:
        """The decisions about one model."""
        return [one for one in self.records() if one["model"] == name]

    def defaults(self) -> list[str]:
        """The usual model, and those that were promoted and not demoted since, in order: the last
        one is the default, the one before is what a demotion goes back to.
        """
        return _defaults(self.records())

    def write(self, outcome: str, model: str, told: Mapping[str, Any], *, instead_of: str) -> None:
        """Add a decision.

        Args:
            outcome: `promoted`, `refused` or `demoted`.
            model: that is the default from now on, or was refused; of a demotion, the one that was.
            told: how it was found.
            instead_of: what the default has been, so that a decision is about that.

        Raises:
            PromotionRefused: another process has changed the default meanwhile.
            ModelDamaged: the lines that are there cannot be read.
            OutputError: it cannot be written; nothing has changed.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"time": now, "outcome": outcome, "model": model, "instead_of": instead_of, **told}
        with writing(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b", buffering=0) as file:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                self._check(self._parsed(file.read()), outcome, instead_of)
                _append(file, record)

    def _check(self, records: list[Record], outcome: str, instead_of: str) -> None:
        default = _defaults(records)[-1]
        if outcome != REFUSED and default != instead_of:
            raise PromotionRefused(
                f"another model became the default meanwhile: `{default}`",
                do="Compare with that one: run the command again",
            )

    def _parsed(self, content: bytes) -> list[Record]:
        *lines, _ = content.split(b"\n")  # a last line without an end is that of a killed process
        found = []
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                record = json.loads(line)
                known = record["outcome"] in (PROMOTED, REFUSED, DEMOTED)
                if not known or not isinstance(record["model"], str):
                    raise ValueError
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise self._damaged(f"is damaged in line {number}") from error
            found.append(record)
        return found

    def _damaged(self, how: str) -> ModelDamaged:
        return ModelDamaged(
            f"`{self._path}` {how}, so nobody knows which model is the default",
            do="Mend the line or remove it; or name a model: `--model`, or `STENO_MODEL`",
        )


def _defaults(records: list[Record]) -> list[str]:
    found = [USUAL]
    for one in records:
        if one["outcome"] == PROMOTED:
            found.append(one["model"])
        elif one["outcome"] == DEMOTED and len(found) > 1:
            found.pop()
    return found


def _append(file: IO[bytes], record: Record) -> None:
    """One write; where the line before has no end, its rest is cut off."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    whole = file.read().rfind(b"\n") + 1
    if whole != size:
        file.truncate(whole)
    line = json.dumps(record, ensure_ascii=False).encode(errors="replace") + b"\n"
    try:
        if file.write(line) != len(line):  # as much as the disk could take
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except BaseException:
        file.truncate(whole)
        raise
