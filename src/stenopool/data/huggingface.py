"""Data sets of the Hugging Face Hub, or saved by its package `datasets`. No code of theirs runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stenopool.data.recording import NAMES, Recording, recording_of
from stenopool.errors import InputUnreadable, UsageError

PREFIX = "hf:"
DEFAULT_SPLIT = "test"
SAVED = ("dataset_info.json", "dataset_dict.json")  # one of them is in a folder of `save_to_disk`


def huggingface(source: str) -> Iterator[Recording]:
    """The recordings of `hf:NAME[:[CONFIGURATION/]SPLIT]`, or of a folder that `datasets` saved.

    The encoded audio stays where `datasets` keeps it, and is read when it is needed.

    Raises:
        UsageError: the package is missing, or there is no such data set, split or column.
    """
    if find_spec("datasets") is None:
        raise UsageError(
            f"`{source}` needs the package `datasets`, which is not installed",
            do="Run `pip install datasets`",
        )
    name, _, wanted = source.removeprefix(PREFIX).partition(":")
    configuration, _, split = wanted.rpartition("/")
    try:
        found = _opened(name, configuration or None, split)
    except Exception as error:
        raise UsageError(
            f"`{source}` cannot be loaded: {type(error).__name__}: {error!s:.300}",
            do="Check name, configuration and split: hf:NAME:CONFIGURATION/SPLIT",
        ) from error
    yield from _recordings(found, source)


def is_saved(folder: Path) -> bool:
    """Whether `datasets` has written this folder."""
    return any((folder / name).is_file() for name in SAVED)


def _opened(name: str, configuration: str | None, split: str) -> Any:  # noqa: ANN401  no types there
    import datasets  # type: ignore[import-not-found,unused-ignore]

    if not is_saved(Path(name)):
        return datasets.load_dataset(
            name, configuration, split=split or DEFAULT_SPLIT, trust_remote_code=False
        )
    found = datasets.load_from_disk(name)
    if not isinstance(found, datasets.DatasetDict):
        return found
    return found[split or (next(iter(found)) if len(found) == 1 else DEFAULT_SPLIT)]


def _recordings(found: Any, source: str) -> Iterator[Recording]:  # noqa: ANN401
    import datasets  # type: ignore[import-not-found,unused-ignore]

    column = _audio_column(found, datasets.Audio)
    if column is None:
        raise UsageError(
            f"`{source}` has no audio: its columns are {', '.join(found.column_names)}",
            do="Choose a data set of recordings",
        )
    found = found.cast_column(column, datasets.Audio(decode=False))
    for number in range(len(found)):
        row: dict[str, Any] = found[number]
        sound = row.pop(column) or {}
        where = f"`{source}`, row {number}"
        path = sound.get("path")
        inside = partial(_bytes, found, number, column, where) if sound.get("bytes") else None
        fields = {**_without_audio(row), "audio": path}
        if row.get("id") is None:
            fields["id"] = f"{number}"
        yield recording_of(fields, Path(), where, stored=inside)


def _without_audio(row: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if name not in NAMES["audio"]}


def _audio_column(found: Any, kind: type[Any]) -> str | None:  # noqa: ANN401
    columns = (name for name, feature in found.features.items() if isinstance(feature, kind))
    return next(columns, None)


def _bytes(found: Any, number: int, column: str, where: str) -> bytes:  # noqa: ANN401
    held: object = found[number][column]["bytes"]
    if not isinstance(held, bytes):
        raise InputUnreadable(f"{where}: its audio is gone", do="Load the data set again")
    return held
