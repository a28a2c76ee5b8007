"""A bucket in an object store: S3 and what speaks its language, Google Cloud Storage, Azure."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

import obstore
from obstore import exceptions
from obstore.store import S3Store

from stenopool.bucket.addressing import check_object_key, is_addressable, unaddressable
from stenopool.bucket.base import Key, Refused, Stamp, changed, check_state, gone
from stenopool.bucket.failures import is_bucket_missing, named
from stenopool.bucket.listing import raw_pages, stamp_of
from stenopool.errors import InputChanged, InputNotFound, OutputUnwritable, StorageUnavailable
from stenopool.files import TEMPORARY_PREFIX, output_error

if TYPE_CHECKING:
    from obstore import Bytes, GetOptions, ObjectMeta
    from obstore.store import ObjectStore

LARGEST_COPY = 5 * 2**30  # bytes that S3 copies in one request
PIECE = 8 * 2**20  # bytes of a download that are in memory

_PAGE = 1000
_LONGEST_KEY = 1024  # bytes, on S3 and Google Cloud Storage
_LONGEST_SUFFIX = 16  # characters of the name of a local copy
_PARTS = 9000  # S3 takes 10,000
_UPLOADS = 2  # parts at a time
_NOWHERE = ".stenopool-nothing"  # what is listed to see whether the bucket answers


@dataclass(frozen=True)
class ObjectBucket:
    """Objects below a prefix of a bucket.

    Names that obstore cannot address, having ASCII control characters or parts that `check_key`
    refuses, are passed over and told. Listings meet them on S3 only: on other stores one of them
    ends the listing with StorageError, which names it.

    Not for a process that was forked from one that has used such a bucket: measured, it waits for
    ever for threads that it does not have.

    Attributes:
        store: any store of obstore, without a prefix of its own.
        url: what this bucket is called, the same in all processes.
        prefix: what all names begin with, without a final `/`.
        largest_copy: bytes of the largest object that the store copies by itself.
    """

    store: ObjectStore
    url: str
    prefix: Key = ""
    largest_copy: int = LARGEST_COPY

    def prepare(self) -> None:
        """Ask the store for a list, which says whether the bucket and the credentials are good.

        Raises:
            StorageError: by name.
        """
        with named(self.url):
            next(obstore.list(self.store, self._full(_NOWHERE)), None)

    def keys(self, prefix: str, refused: Refused | None = None) -> Iterator[Key]:
        """The names that `entries` gives."""
        for key, _ in self.entries(prefix, refused):
            yield key

    def entries(self, prefix: str, refused: Refused | None = None) -> Iterator[tuple[Key, Stamp]]:
        """The objects below a prefix, 1,000 in memory at a time, in the order of the store.

        Empty objects whose names end in `/` stand for folders in some tools, and are passed over.
        One that has content may be given without that `/`, a name of which nothing is found then:
        obstore cuts it off.

        Args:
            prefix: a folder, with or without a final `/`.
            refused: is told of each name that cannot be addressed.

        Raises:
            StorageError: by name; the listing is not complete then.
        """
        for page in self._pages(prefix):
            for key, stamp in page:
                if is_addressable(key):
                    yield key, stamp
                elif refused and not (key.endswith("/") and stamp.size == 0):
                    refused(key, unaddressable(key))

    def stamp(self, key: Key) -> Stamp | None:
        """The state of an object; None when there is none of this name.

        The same when there is no bucket: the store's answer does not tell the two apart.
        """
        meta = self._head(key)
        return None if meta is None else _stamp(meta)

    def read(self, key: Key) -> bytes | None:
        """The content of an object, which must fit into memory; None when there is none."""
        path = self._full(key)
        with named(self._place(key)):
            try:
                return bytes(obstore.get(self.store, path).bytes())
            except FileNotFoundError as error:
                if is_bucket_missing(error):
                    raise
                return None

    def create(self, key: Key, data: bytes | str) -> bool:
        """Write an object, if there is none of this name; False if there is one.

        The store decides (`If-None-Match: *`), so it must be one that knows this: S3 does since
        2024. When an answer is lost, and obstore asks again, nobody is told True.

        Raises:
            StorageError: by name; the object may be there.
        """
        path = self._full(key)
        with named(self._place(key)):
            try:
                obstore.put(self.store, path, _encoded(data), mode="create")
            except exceptions.AlreadyExistsError:
                return False
        return True

    def write(self, key: Key, data: bytes | str) -> None:
        """Write an object whole, in the place of any older one.

        Raises:
            StorageError: by name; the object is there as a whole or not at all.
        """
        path = self._full(key)
        with named(self._place(key)):
            obstore.put(self.store, path, _encoded(data), use_multipart=False)

    def put_file(self, key: Key, path: Path) -> None:
        """Write an object with the content of a file, some parts of it at a time in memory.

        A process that dies meanwhile can leave parts in S3, which a lifecycle rule for incomplete
        uploads removes.

        Raises:
            StorageError: by name; the object is there as a whole or not at all.
        """
        target, size = self._full(key), path.stat().st_size
        with named(self._place(key)):
            obstore.put(
                self.store,
                target,
                path,
                use_multipart=size > PIECE,
                chunk_size=_part(size),
                max_concurrency=_UPLOADS,
            )

    def move(self, source: Key, target: Key, stamp: Stamp | None = None) -> bool:
        """Copy an object within the store, look at the copy, then delete the object.

        No store renames, so this can end between any two steps; then the object is still there, and
        all is done again. If another object takes its place meanwhile, that one stays, and the copy
        may be of either. Only one that comes between the last look and the deletion is lost: a
        moment, but obstore cannot delete on a condition.

        Objects over `largest_copy` are fetched and sent again in parts, because obstore asks for
        copies in one piece and S3 refuses that over 5 GiB. A process that dies then can leave parts
        in S3, which a lifecycle rule for incomplete uploads removes.

        Returns:
            False if there is no such object, it is in another state than `stamp`, or another one
            has come while it was copied.

        Raises:
            StorageError: by name; the object is still at `source`.
            InputChanged: another object has come while it was copied, and `stamp` is None.
        """
        meta = self._head(source)
        if meta is None or stamp not in {None, _stamp(meta)}:
            return False
        if source == target:
            return True
        before, earlier = _stamp(meta), self.stamp(target)
        try:
            self._copy(source, target, meta)
            self._check_copy(target, before, earlier)
            if (now := self.stamp(source)) is not None:  # None: another process has ended this move
                check_state(source, now, before)
                self.delete(source)
        except InputNotFound:
            return False
        except InputChanged:
            if stamp is None:
                raise
            return False
        return True

    def delete(self, key: Key) -> None:
        """Remove an object; one that is not there is no error.

        Raises:
            StorageError: by name.
        """
        self._delete(key, [self._full(key)])

    def delete_below(self, prefix: Key) -> None:
        """Remove all objects below a prefix, but for those that cannot be addressed.

        Raises:
            StorageError: by name; some may be left.
        """
        for page in self._pages(prefix):
            paths = [self._full(key) for key, _ in page if is_addressable(key)]
            if paths and not self._delete(prefix, paths):
                for path in paths:
                    self._delete(prefix, [path])

    @contextmanager
    def local(self, key: Key, stamp: Stamp | None = None) -> Iterator[Path]:
        """A copy in the folder for temporary files, 8 MiB in memory at a time.

        Its name ends like the object's. It is removed in the end.

        Raises:
            InputNotFound: there is no object of this name.
            InputChanged: it is in another state than `stamp`, or changes on the way.
            StorageError: by name.
            OutputError: the copy could not be written.
        """
        meta = self._head(key)
        check_state(key, None if meta is None else _stamp(meta), stamp)
        with _temporary_file(PurePosixPath(key).suffix[:_LONGEST_SUFFIX]) as file:
            for piece in self._pieces(key, meta) if meta else ():
                _append(file, piece)
            yield Path(file.name)

    def _full(self, key: Key) -> str:
        """The object's name in the whole bucket."""
        check_object_key(key)
        full = f"{self.prefix}/{key}" if self.prefix else key
        if len(full.encode()) > _LONGEST_KEY:
            raise OutputUnwritable(
                f"`{self._place(key)}` is a name of more than {_LONGEST_KEY} bytes",
                do="Use a shorter file name or fewer folders",
            )
        return full

    def _place(self, key: Key) -> str:
        return f"{self.url}/{key}"

    def _head(self, key: Key) -> ObjectMeta | None:
        path = self._full(key)
        with named(self._place(key)):
            try:
                return obstore.head(self.store, path)
            except FileNotFoundError:
                return None

    def _pages(self, prefix: str) -> Iterator[list[tuple[Key, Stamp]]]:
        full = self._full(prefix.rstrip("/"))
        last = ""
        listing = obstore.list(self.store, full, chunk_size=_PAGE)
        while True:
            with named(self._place(prefix)):
                try:
                    page = next(listing, None)
                except exceptions.InvalidPathError:
                    if not isinstance(self.store, S3Store):
                        raise
                    break
            if page is None:
                return
            last = page[-1]["path"]
            yield list(self._found(page))
        for raw in raw_pages(self.store, self.url, f"{full}/", last):
            yield [(self._relative(name), stamp) for name, stamp in raw]

    def _found(self, page: Sequence[ObjectMeta]) -> Iterator[tuple[Key, Stamp]]:
        for meta in page:
            key, stamp = self._relative(meta["path"]), _stamp(meta)
            # obstore cuts a `/` off the end. So an empty object may be none, or the sign that some
            # tools make for a folder, which is not there when it is asked for without the `/`.
            if stamp.size or self.stamp(key) is not None:
                yield key, stamp

    def _relative(self, name: str) -> Key:
        return name.removeprefix(f"{self.prefix}/") if self.prefix else name

    def _delete(self, key: Key, paths: list[str]) -> bool:
        """False if one of them was not there and the store minds: then others may be left."""
        with named(self._place(key)):
            try:
                obstore.delete(self.store, paths)
            except FileNotFoundError as error:
                if is_bucket_missing(error):
                    raise
                return False
        return True

    def _copy(self, source: Key, target: Key, meta: ObjectMeta) -> None:
        path = self._full(target)
        with named(self._place(source)):
            try:
                if meta["size"] <= self.largest_copy:
                    obstore.copy(self.store, self._full(source), path)
                    return
                obstore.put(
                    self.store,
                    path,
                    _in_a_thread(self._pieces(source, meta)),
                    use_multipart=True,
                    chunk_size=_part(meta["size"]),
                    max_concurrency=_UPLOADS,
                )
            except FileNotFoundError as error:
                if is_bucket_missing(error):
                    raise
                raise gone(source) from error

    def _check_copy(self, target: Key, original: Stamp, earlier: Stamp | None) -> None:
        """Refuse a copy that was not made although the store has said so, as S3 does at times.

        Encryption and parts change the ETag, so a different one proves nothing where something was
        written.
        """
        copy = self.stamp(target)
        if copy and copy.size == original.size and (copy.tag == original.tag or copy != earlier):
            return
        raise StorageUnavailable(
            f"the store did not make the copy `{self._place(target)}`",
            do="Try again later; check the store's status",
        )

    def _pieces(self, key: Key, meta: ObjectMeta) -> Iterator[Bytes]:
        """The content of one state of an object, each piece by a request of its own.

        Each has its own time limit then, and a cut connection costs a piece at most.
        """
        for start in range(0, meta["size"], PIECE):
            yield self._piece(key, meta, (start, min(start + PIECE, meta["size"])))

    def _piece(self, key: Key, meta: ObjectMeta, part: tuple[int, int]) -> Bytes:
        options: GetOptions = {"range": part, "if_match": meta["e_tag"]}
        with named(self._place(key)):
            try:
                result = obstore.get(self.store, self._full(key), options=options)
                data = result.bytes()
            except FileNotFoundError as error:
                if is_bucket_missing(error):
                    raise
                raise gone(key) from error
            except exceptions.PreconditionError as error:
                raise changed(key) from error
        check_state(key, _stamp(result.meta), _stamp(meta))
        if len(data) != part[1] - part[0]:
            raise StorageUnavailable(
                f"`{self._place(key)}` ended early", do="Try again later; check the network"
            )
        return data


def _stamp(meta: ObjectMeta) -> Stamp:
    return stamp_of(meta["size"], meta["last_modified"], meta["e_tag"])


def _part(size: int) -> int:
    """Bytes of a part of an upload."""
    return max(PIECE, -(-size // _PARTS))


def _encoded(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data


def _in_a_thread(pieces: Iterator[Bytes]) -> Iterator[Bytes]:
    """obstore may not be called from an iterator that it reads: its runtime does not nest."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        while (piece := pool.submit(next, pieces, None).result()) is not None:
            yield piece


def _temporary_file(suffix: str) -> IO[bytes]:
    try:
        return tempfile.NamedTemporaryFile(buffering=0, prefix=TEMPORARY_PREFIX, suffix=suffix)
    except OSError as error:
        raise output_error(
            Path(error.filename or "the folder for temporary files"), error
        ) from error


def _append(file: IO[bytes], piece: Bytes) -> None:
    # Without a buffer: what is in one is written again on closing, and fails again.
    rest = memoryview(piece)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise output_error(Path(file.name), error) from error
