"""Bodies become files, whatever their size: nothing of them stays in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import ClassVar

from fastapi import Request, UploadFile
from starlette.concurrency import run_in_threadpool

from stenopool.errors import UsageError
from stenopool.files import output_error
from stenopool.pipeline.liveness import birth_of

PREFIX = "stenopool-uploads-"
LONGEST_SUFFIX = 12
CHUNK = 1 << 20


class TooLarge(UsageError):  # noqa: N818  the names say what happened
    """The body is larger than the server takes."""

    code: ClassVar[str] = "too_large"


class Uploads:
    """A folder of this process for what comes in; what dead processes left is removed.

    Args:
        most_bytes: of one body.
        parent: where the folder is made; by default where temporary files go.
    """

    def __init__(self, most_bytes: int, parent: Path | None = None) -> None:
        self.most_bytes = most_bytes
        place = parent or Path(tempfile.gettempdir())
        _remove_left(place)
        name = f"{PREFIX}{os.getpid()}-{birth_of(os.getpid())}-"
        self.folder = Path(tempfile.mkdtemp(prefix=name, dir=place))

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @asynccontextmanager
    async def of_form(self, upload: UploadFile) -> AsyncIterator[Path]:
        """A file of a form, as a file of its own.

        Raises:
            OutputError: there is no room for it.
        """
        with self.new(upload.filename or "") as path:
            with kept():
                await run_in_threadpool(_copied, upload, path)
            yield path

    @asynccontextmanager
    async def of_body(self, request: Request, name: str = "") -> AsyncIterator[Path]:
        """The whole body of a request.

        Raises:
            TooLarge: it is larger than the server takes.
            OutputError: there is no room for it.
        """
        with self.new(name) as path:
            with kept(), path.open("wb") as file:
                written = 0
                async for chunk in request.stream():
                    written += len(chunk)
                    self.check(written)
                    await run_in_threadpool(file.write, chunk)
            yield path

    def check(self, size: int) -> None:
        """Raises TooLarge for a body of so many bytes."""
        if size > self.most_bytes:
            raise TooLarge(
                f"the body is larger than {self.most_bytes} bytes",
                do="Put large recordings into the bucket",
            )

    @contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """An empty file, for as long as the context lasts."""
        # The suffix only helps decoders to guess; nothing else of the name is used.
        suffix = Path(name).suffix[:LONGEST_SUFFIX]
        descriptor, place = tempfile.mkstemp(
            suffix=suffix if suffix.isascii() and suffix[1:].isalnum() else "", dir=self.folder
        )
        os.close(descriptor)
        path = Path(place)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def kept() -> Iterator[None]:
    """Says what the operating system refuses to keep, without where that would have been.

    Raises:
        OutputError: by name.
    """
    try:
        yield
    except OSError as error:
        raise output_error(Path("the upload"), error) from error


def _copied(upload: UploadFile, path: Path) -> None:
    upload.file.seek(0)
    with path.open("wb") as file:
        shutil.copyfileobj(upload.file, file, CHUNK)


def _remove_left(place: Path) -> None:
    for folder in place.glob(f"{PREFIX}*"):
        pid, _, rest = folder.name.removeprefix(PREFIX).partition("-")
        born = rest.partition("-")[0]
        if pid.isdecimal() and birth_of(int(pid)) != born:
            shutil.rmtree(folder, ignore_errors=True)
