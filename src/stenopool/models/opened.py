"""Models in other formats than the engines', rewritten once for them and kept.

Every engine reads CTranslate2's folder; so that each need not read each format, a model of another
one is written as such a folder, in the user's cache. It is found by a hash of all its files, which
are read whole at every start as those of the catalogue are.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from stenopool.files import PARTIAL, folder_beside, give_name, make_folder
from stenopool.models.files import sha256
from stenopool.settings import settings

_VERSION = 2  # of what is written, and of what is looked at
_STALE_SECONDS = 24 * 3600.0  # what is older and has no name yet was killed
_UNUSED_SECONDS = 30 * 24 * 3600.0  # what nobody has opened for so long goes
_DO = "Download the model again, or export it again with `steno models export`"


def opened(path: Path) -> tuple[str, Path, str] | None:
    """Name, folder and identity of a model in a format that engines do not read.

    Args:
        path: a folder of Transformers, a checkpoint of openai-whisper, or a file of whisper.cpp.

    Returns:
        The identity is the SHA-256 of a file, or of all hashes of a folder. `None` where the path
        is of no such model.

    Raises:
        ModelDamaged: it is, and is damaged.
        OutputError: the cache cannot be written to.
    """
    from stenopool.models.formats.reading import foreign, source_files

    found = foreign(path)
    if found is None:
        return None
    files = source_files(found)
    hashes = [[file.name, sha256(file, _DO)] for file in files]
    identity = hashlib.sha256(json.dumps([_VERSION, *hashes]).encode()).hexdigest()
    name = path.stem if path.is_file() else path.resolve().name
    root = settings().compiled_dir / "models"
    folder = root / identity[:32]
    if not folder.is_dir():
        _sweep(root)
        _rewrite(found, folder)
    with suppress(OSError):
        os.utime(folder)
    return name, folder, hashes[0][1] if len(files) == 1 else identity


def _rewrite(source: Path, folder: Path) -> None:
    from stenopool.models.formats.ctranslate2_writer import write_ctranslate2
    from stenopool.models.formats.reading import is_quantised, read_whisper

    whisper = read_whisper(source).sound()
    # To round what was quantised costs a thousandth of a quantisation step.
    precision = "float16" if is_quantised(source) else whisper.precision
    make_folder(folder.parent)
    with folder_beside(folder) as fresh:
        write_ctranslate2(whisper, fresh, precision)
        try:
            give_name(fresh, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same result
                raise


def _sweep(root: Path) -> None:
    with suppress(OSError):
        for folder in root.iterdir():
            age = time.time() - folder.stat().st_mtime
            if age > (_STALE_SECONDS if folder.name.startswith(PARTIAL) else _UNUSED_SECONDS):
                shutil.rmtree(folder, ignore_errors=True)
