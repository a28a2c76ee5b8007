"""The files of a model: found, hashed and read with distrust."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

from stenopool.errors import ModelDamaged

CONFIG = "config.json"
WHISPER, WAV2VEC2 = "whisper", "wav2vec2"  # as `model_type` in it says them
MOST_JSON_BYTES = 20_000_000


def model_type(folder: Path) -> object:
    """What a folder in Transformers' layout says that it holds; it may be damaged all the same."""
    try:
        return read_json(folder / CONFIG).get("model_type")
    except ModelDamaged:
        return None


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelDamaged: it is missing or none.
    """
    try:
        if regular(file).stat().st_size > MOST_JSON_BYTES:
            raise damaged(f"`{file.name}` is too long to be a model's")
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(f"`{file.name}` is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise damaged(f"`{file.name}` is not a JSON object")
    return found


def regular(file: Path) -> Path:
    """The same path, where a plain file is; links inside a model's folder must stay inside it.

    Raises:
        ModelDamaged: there is none, or a link leads out of the folder.
    """
    try:
        plain = stat.S_ISREG(file.stat().st_mode)
        leads = file.resolve()
    except (OSError, RuntimeError) as error:
        raise damaged(f"`{file}` is missing or cannot be read") from error
    if not plain:
        raise damaged(f"`{file}` is not a file")
    inside = leads.is_relative_to(file.parent.resolve()) or _in_hub_cache(file, leads)
    if file.is_symlink() and not inside:
        raise damaged(f"`{file}` is a link that leads out of the model's folder")
    return file


def _in_hub_cache(file: Path, leads: Path) -> bool:
    """The Hub's cache has links from `snapshots/<commit>/` to `blobs/` of the same repository."""
    parents = file.parent.resolve().parents
    return len(parents) > 1 and leads.parent == parents[1] / "blobs"


def sha256(path: Path, advice: str) -> str:
    """Of a file, in hexadecimal.

    Raises:
        ModelDamaged: it is missing or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelDamaged(f"`{path}` is not a file", do=advice)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelDamaged(f"`{path}` is missing", do=advice) from error
    except OSError as error:
        raise ModelDamaged(f"`{path}` cannot be read: {error.strerror}", do=advice) from error


def is_folder(path: Path) -> bool:
    """Whether a path is that of a folder; False for what no path can be."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long for the file system, or with a NUL
        return False


def damaged(what: str) -> ModelDamaged:
    """The error of a user's model."""
    return ModelDamaged(what, do="Save the model again, or copy its folder again")
