"""`model.tar.gz` in SageMaker's layout: a model's files at the root, code in `code/`.

Packing the same files gives the same bytes. Unpacking trusts nothing: an archive may name files
outside the folder, links, devices, or more than fits.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from stenopool.errors import ModelDamaged, OutputUnwritable, UsageError
from stenopool.files import fill_whole, folder_beside, give_name
from stenopool.models.local import files_of
from stenopool.models.store import Store

CODE = "code"
MOST_BYTES = 20 << 30
MOST_FILES = 1000
_LEVEL = 1  # weights hardly get smaller, and take long


def package(folder: Path, archive: Path, code: Sequence[Path] = ()) -> list[str]:
    """Pack a model; the archive appears whole or not at all. Gives the names in it.

    Args:
        folder: a model that `--model` takes.
        archive: the file to write.
        code: files for `code/`, such as `inference.py` and `requirements.txt`.

    Raises:
        ModelError: the folder holds no whole model.
        UsageError: a file of code is not there, or two have one name.
        OutputError: the archive cannot be written.
    """
    files = files_of(Store().resolve(Path(folder)))
    for path in code:
        if not path.is_file():
            raise UsageError(f"there is no file `{path}`", do="Name the files of your code")
        if f"{CODE}/{path.name}" in files:
            raise UsageError(f"two files of code are called `{path.name}`", do="Rename one")
        files[f"{CODE}/{path.name}"] = path
    fill_whole(archive, lambda file: _write(file, files))
    return list(files)


def _write(file: IO[bytes], files: dict[str, Path]) -> None:
    with (
        gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, path in files.items():
            with path.open("rb") as content:
                member = tarfile.TarInfo(name)
                member.size = os.fstat(content.fileno()).st_size
                member.mode = 0o644
                tar.addfile(member, content)


def unpack(archive: Path, folder: Path) -> list[str]:
    """Unpack a model into a folder that is not there yet. Gives the names in it.

    Raises:
        ModelDamaged: the archive is no archive, or holds what it must not.
        OutputError: the folder is there, or cannot be written.
    """
    if folder.exists():
        raise OutputUnwritable(f"`{folder}` is there already", do="Name a new folder")
    with folder_beside(folder) as fresh:
        names = _unpacked(archive, fresh)
        give_name(fresh, folder)
    return names


def _unpacked(archive: Path, folder: Path) -> list[str]:
    names: list[str] = []
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in _checked(tar, archive):
                content = tar.extractfile(member)
                if content is None:
                    continue
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    shutil.copyfileobj(content, file)
                names.append(str(PurePosixPath(member.name)))
    except FileExistsError as error:
        raise _refused(archive, "it holds a file twice") from error
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise _refused(archive, f"it is no whole archive: {error}") from error
    return names


def _checked(tar: tarfile.TarFile, archive: Path) -> Iterator[tarfile.TarInfo]:
    size = 0
    for number, member in enumerate(tar, start=1):
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
            raise _refused(archive, f"it names `{member.name[:80]}`, outside the folder")
        if not (member.isreg() or member.isdir()):
            raise _refused(archive, f"`{member.name[:80]}` is a link or a device")
        size += member.size
        if number > MOST_FILES or size > MOST_BYTES:
            raise _refused(archive, "it holds more than a model has")
        yield member


def _refused(archive: Path, why: str) -> ModelDamaged:
    return ModelDamaged(
        f"`{archive.name}` is no model's archive: {why}",
        do="Make it with `steno models package`",
    )
