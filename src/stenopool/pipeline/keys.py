"""Where in the bucket the things of one recording stand. Users rely on these names.

`input/a/b.wav` → `output/a/b.wav.json` (and other formats) → `processed/a/b.wav`, or on failure
`failed/a/b.wav` with `failed/a/b.wav.error.json`. `work/` holds what is not finished.
"""

from __future__ import annotations

import hashlib
import re

from stenopool.bucket import Key

INPUT = "input/"
OUTPUT = "output/"
PROCESSED = "processed/"
FAILED = "failed/"
WORK = "work/"
UPLOADS = "input/api/"

RECORD_SUFFIX = ".error.json"
SIDECAR_SUFFIX = ".steno.json"

_LONGEST_NAME = 255  # bytes, on every file system in common use
_LONGEST_CHARACTER = 4  # bytes in UTF-8
_TAG_LENGTH = 17  # `~` and sixteen hexadecimal digits
_JOB_ID = re.compile(r"[0-9a-f]{24}-[0-9]+")
_UPLOAD = re.compile(rf"{UPLOADS}[0-9a-f]{{32}}-[^/]+")
_TAGGED = re.compile(rb"~[0-9a-f]{16}\Z")


def is_hidden(key: Key) -> bool:
    """Whether a part of the name begins with a dot, as unfinished copies of many tools do."""
    return any(part.startswith(".") for part in key.split("/"))


def is_recording(key: Key) -> bool:
    """Whether a file under `input/` is to be transcribed by whoever finds it.

    Hidden files, `*.steno.json` and what the server keeps there are not. Nor are error records,
    which come back to `input/` when somebody moves all of `failed/` there: one that failed would
    overwrite another file's record.
    """
    if is_hidden(key) or is_upload(key):
        return False
    return not key.endswith((SIDECAR_SUFFIX, RECORD_SUFFIX))


def is_upload(key: Key) -> bool:
    """Whether the server stored it, `input/api/<32 hexadecimal digits>-<name>`, and submits it."""
    return _UPLOAD.fullmatch(key) is not None


def output_key(key: Key, format: str) -> Key:
    """The document of a recording, its name shortened if it must be."""
    return OUTPUT + with_suffix(_below_input(key), f".{format}")


def processed_key(key: Key) -> Key:
    """Where a recording stands once its transcript is complete."""
    return PROCESSED + _below_input(key)


def failed_key(key: Key) -> Key:
    """Where a recording stands that cannot be transcribed."""
    return FAILED + _below_input(key)


def record_key(key: Key) -> Key:
    """The error record beside a failed recording, its name shortened if it must be."""
    return FAILED + with_suffix(_below_input(key), RECORD_SUFFIX)


def work_folder(key: Key) -> Key:
    """The folder for a recording's unfinished results; no two recordings share one."""
    return WORK + hashlib.sha256(_encoded(key)).hexdigest()


def job_folder(job_id: str) -> Key:
    """The folder for what is not finished of a job."""
    return f"{WORK}{job_id}"


def is_job_id(name: str) -> bool:
    """Whether a folder in `work/` is a job's."""
    return _JOB_ID.fullmatch(name) is not None


def sidecar_key(key: Key) -> Key:
    """The options of one recording."""
    return f"{key}{SIDECAR_SUFFIX}"


def prefix_sidecars(key: Key) -> list[Key]:
    """The options of the folders that a recording is in, the outermost first."""
    folders = key.split("/")[:-1]
    return ["/".join([*folders[: depth + 1], SIDECAR_SUFFIX]) for depth in range(len(folders))]


def with_suffix(name: Key, suffix: str) -> Key:
    """The name with a suffix; a last part over 255 bytes is shortened and gets a tag.

    The tag is `~` and the first sixteen hexadecimal digits of the SHA-256 of the whole last part. A
    part that already looks like a shortened one is tagged as well: else it could be taken for it.
    """
    folder, slash, base = name.rpartition("/")
    encoded = _encoded(base)
    room = _LONGEST_NAME - len(suffix.encode())
    if len(encoded) > room or _looks_shortened(encoded, room):
        base = _shortened(encoded, room)
    return f"{folder}{slash}{base}{suffix}"


def _looks_shortened(base: bytes, room: int) -> bool:
    return len(base) > room - _LONGEST_CHARACTER and _TAGGED.search(base) is not None


def _shortened(base: bytes, room: int) -> str:
    end = min(room, len(base)) - _TAG_LENGTH
    for _ in range(_LONGEST_CHARACTER - 1):
        if base[end] & 0b1100_0000 != 0b1000_0000:  # the next byte begins a character
            break
        end -= 1
    tag = hashlib.sha256(base).hexdigest()[: _TAG_LENGTH - 1]
    return f"{base[:end].decode('utf-8', 'surrogateescape')}~{tag}"


def _below_input(key: Key) -> Key:
    return key.removeprefix(INPUT)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
