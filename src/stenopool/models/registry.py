"""Registered models: `registered/NAME/N/` in the models folder, with a record of what each is.

A version appears whole by one rename and is never written to again; its number is never given to
another. What it must hash to stands in its `registered.json`, and is checked at each use.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from stenopool.errors import ModelDamaged, UnknownName, UnsupportedOption, UsageError
from stenopool.models.catalogue import ALIASES, CATALOGUE, Kind, shown
from stenopool.models.files import is_folder, read_json, regular, sha256
from stenopool.models.local import LocalModel, files_of, user_model
from stenopool.models.workspace import TAKEN, move, workspace

FOLDER, RECORD, CARD = "registered", "registered.json", "README.md"
SCHEMA = 1
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_VERSION = re.compile(r"[1-9][0-9]{0,5}")
_REMOVED = ".removed"
_DO = "Add it again with `steno models add`, or copy the whole folder again"


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """One version of a registered model; as text `NAME@N`."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


class Registry:
    """The registered models of one models folder, which several processes may fill at once.

    Args:
        root: the models folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / FOLDER

    def has(self, name: str) -> bool:
        """Whether a name, with or without a version, is that of a registered model.

        Raises:
            UnknownName: there is such a model, but not this version of it.
        """
        base, _, number = name.partition("@")
        versions = self.versions(base)
        if not versions:
            return False
        if number and not (_VERSION.fullmatch(number) and int(number) in versions):
            there = ", ".join(map(str, versions))
            raise UnknownName(
                f"`{base}` has no version `{shown(number)}`", do=f"There are: {there}"
            )
        return not name.endswith("@")

    def find(self, name: str) -> Version:
        """The version that a name means: the newest one, where it names none.

        Raises:
            UnknownName: no such model is registered.
        """
        if not self.has(name):
            raise UnknownName(
                f"no model is registered as `{shown(name)}`", do="See `steno models list`"
            )
        base, _, number = name.partition("@")
        return Version(base, int(number) if number else self.versions(base)[-1])

    def versions(self, name: str) -> list[int]:
        """The numbers of a model's versions, in order; none where it is not registered."""
        found = self._numbers(name) if _NAME.fullmatch(name) else {}
        return sorted(number for number, there in found.items() if there)

    def all(self) -> list[Version]:
        """Every version of every model, by name and number; they are not verified."""
        if not is_folder(self._folder):
            return []
        names = sorted(_names(self._folder))
        return [Version(name, number) for name in names for number in self.versions(name)]

    def folder(self, version: Version) -> Path:
        """Where a version is."""
        return self._folder / version.name / str(version.number)

    def record(self, version: Version) -> dict[str, Any]:
        """What was written down of a version.

        Raises:
            ModelDamaged: it cannot be read.
        """
        try:
            record = read_json(self.folder(version) / RECORD)
        except ModelDamaged as error:
            raise ModelDamaged(f"`{version}`: {error.what}", do=_DO) from error
        fields = {"files": dict, "source": dict, "sha256": str, "time": str, "parameters": int}
        sound = all(isinstance(record.get(name), kind) for name, kind in fields.items())
        if not sound or record.get("kind") not in ("whisper", "ctc"):
            raise ModelDamaged(f"`{version}`: `{RECORD}` is damaged", do=_DO)
        return record

    def verify(self, name: str) -> LocalModel:
        """The model of a name; every file of it is hashed.

        Raises:
            UnknownName: no such model is registered.
            ModelDamaged: a file is missing, has the wrong hash, or was put there.
        """
        version = self.find(name)
        record, folder = self.record(version), self.folder(version)
        model = LocalModel(
            str(version), folder, record["sha256"], None, cast("Kind", record["kind"])
        )
        there = _names(folder) - {RECORD}
        for file in sorted(there | record["files"].keys() | {model.weights.name}):
            wanted = record["files"].get(file)
            if wanted is None or Path(file).name != file:
                raise ModelDamaged(f"`{shown(file)}` is no registered file of `{version}`", do=_DO)
            found = sha256(regular(folder / file) if file in there else folder / file, _DO)
            if found != wanted:
                raise ModelDamaged(
                    f"`{file}` of the model `{version}` is damaged: its SHA-256 should begin with "
                    f"{str(wanted)[:12]}, but begins with {found[:12]}",
                    do=_DO,
                )
        return model

    def add(
        self,
        name: str,
        source: LocalModel,
        told: Mapping[str, Any],
        card: Callable[[LocalModel, Mapping[str, Any]], str],
    ) -> Version:
        """Register a copy of a model as the next version of a name.

        Args:
            source: in the form that engines read.
            told: what is known of how it came about, such as `training` and `licence`.
            card: the text of its `README.md`, from the copy and the record.

        Raises:
            UsageError: the name cannot be one.
            UnsupportedOption: the model transcribes nothing.
            ModelDamaged: the model cannot be read.
            OutputUnwritable, StorageFull: the models folder cannot take it.
        """
        check_name(name)
        if source.kind == "vad":
            raise UnsupportedOption(f"`{source.name}` does not transcribe", do="Name another model")
        with workspace(self._root) as beside:
            fresh = beside / "model"
            fresh.mkdir()
            for file, path in files_of(source).items():
                if file != CARD:
                    shutil.copyfile(path, fresh / file)
            copy = user_model(fresh)  # what was read could have changed since
            record = {
                "schema": SCHEMA,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "kind": copy.kind,
                "sha256": copy.sha256,
                "parameters": parameters(copy),
                "source": {"name": source.name, "sha256": source.sha256},
                **told,
            }
            (fresh / CARD).write_text(card(copy, {"name": name, **record}), encoding="utf-8")
            files = {path.name: sha256(path, _DO) for path in sorted(fresh.iterdir())}
            text = json.dumps({**record, "files": files}, ensure_ascii=False, indent=2)
            (fresh / RECORD).write_text(f"{text}\n", encoding="utf-8")
            return self._install(fresh, name)

    def remove(self, version: Version) -> None:
        """Delete a version; its number stays taken, since transcripts name it.

        Raises:
            UnknownName: there is none.
            OutputUnwritable: it may not be deleted.
        """
        self.find(str(version))
        folder = self.folder(version)
        with workspace(self._root) as beside:
            folder.with_name(f"{folder.name}{_REMOVED}").touch()
            move(folder, beside / "old")

    def _install(self, fresh: Path, name: str) -> Version:
        """Give it the first number that nobody has had."""
        parent = self._folder / name
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            version = Version(name, max(self._numbers(name), default=0) + 1)
            try:
                fresh.rename(self.folder(version))
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
            else:
                return version

    def _numbers(self, name: str) -> dict[int, bool]:
        """Each number that was given, and whether its version is there."""
        parent = self._folder / name
        if not is_folder(parent):
            return {}
        names = _names(parent)
        given = {one.removesuffix(_REMOVED) for one in names}
        numbers = (one for one in given if _VERSION.fullmatch(one))
        return {int(one): one in names and f"{one}{_REMOVED}" not in names for one in numbers}


def _names(folder: Path) -> set[str]:
    """Of all that is in a folder.

    Raises:
        ModelDamaged: nobody may look.
    """
    try:
        return {path.name for path in folder.iterdir()}
    except OSError as error:
        raise ModelDamaged(
            f"`{folder}` cannot be read: {error.strerror}", do="Make the models folder readable"
        ) from error


def check_name(name: str) -> None:
    """Refuse what no registered model can be called.

    Raises:
        UsageError: by name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"`{shown(name)}` cannot be a model's name",
            do="Use up to 64 small letters, digits and `.`, `_`, `-` between them",
        )
    if name in {*CATALOGUE, *ALIASES}:
        raise UsageError(f"`{name}` is a model of the catalogue", do="Choose a name of your own")


def parameters(model: LocalModel) -> int:
    """How many numbers a model has; it is read for that, as an engine would.

    Raises:
        ModelDamaged: it cannot be.
    """
    from math import prod

    if model.kind == "ctc":
        from stenopool.models.wav2vec2 import read_wav2vec2

        return sum(tensor.size for tensor in read_wav2vec2(model.folder).tensors.values())
    from stenopool.models.formats.reading import read_whisper

    stored = read_whisper(model.folder).weights.stored()
    return sum(prod(one.shape) for one in stored.values())
