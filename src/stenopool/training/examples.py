"""From the lines of a data set to what can be trained on, and why the others cannot."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stenopool.audio import SAMPLE_RATE, media
from stenopool.data import Recording, read
from stenopool.errors import InputError, InputNotFound, StenoError, UsageError
from stenopool.training.options import STOP, CtcOptions
from stenopool.training.vocabulary import Vocabulary, frames_needed

LISTED = 1000  # reasons that are kept word for word


@dataclass(frozen=True, slots=True)
class Example:
    """A recording to train on or to evaluate with; `labels` are the numbers of its characters."""

    id: str
    audio: Path
    text: str
    labels: tuple[int, ...]
    seconds: float
    speaker: str | None = None


@dataclass(slots=True)
class Bad:
    """Recordings that cannot be used: counted and listed, or the first one is an error.

    Attributes:
        stop: raise instead.
        counts: of each code, such as `input_not_found`.
        reasons: the first of them, as they would stand in an error.
    """

    stop: bool
    counts: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)

    def __call__(self, error: StenoError, reason: str | None = None) -> None:
        """Take note of one.

        Raises:
            StenoError: as given, if the first ends the work.
        """
        if self.stop:
            raise error
        self.counts[reason or error.code] += 1
        if len(self.reasons) < LISTED:
            self.reasons.append(error.what)


@dataclass(frozen=True, slots=True)
class DataSet:
    """Where the data comes from, and what it was.

    Attributes:
        source: as the user named it.
        sha256: of the file, where it is one.
        listing_sha256: of ids, texts, paths and sizes; another one means other data.
    """

    source: str
    recordings: tuple[Recording, ...]
    sha256: str | None
    listing_sha256: str

    def record(self) -> dict[str, object]:
        """Plain data for the records."""
        return {
            "source": self.source,
            "recordings": len(self.recordings),
            "sha256": self.sha256,
            "listing_sha256": self.listing_sha256,
        }


def data_set(source: str, bad: Bad) -> DataSet:
    """All recordings of a source that have a text and a file.

    Raises:
        InputError, UsageError: the source cannot be read, or a line of it is bad.
    """
    digest = _sha256(Path(source)) if Path(source).is_file() else None
    listing = hashlib.sha256()
    found = []
    for one in read(source, on_bad=bad):
        size = _size(one)
        line = [one.id, one.text, str(one.audio), one.duration, size]
        listing.update(json.dumps(line).encode())
        if size is None:
            bad(InputNotFound(f"`{source}`: no such file: `{one.audio}`", do="Check the path"))
        elif one.stored is not None:
            raise UsageError(
                f"`{source}` holds its audio inside its own files",
                do="Run `steno data prepare` on it first, and train on what that writes",
            )
        elif not (one.text or "").strip():
            error = UsageError(
                f"`{source}`: `{one.id}` has no text", do="Give it the text that is said in it"
            )
            bad(error, "empty_text")
        else:
            found.append(one)
    return DataSet(source, tuple(found), digest, listing.hexdigest())


def training_examples(
    data: DataSet,
    vocabulary: Vocabulary,
    frames: Callable[[int], int],
    options: CtcOptions,
    bad: Bad,
) -> list[Example]:
    """What can be trained on.

    Args:
        frames: frames that the model makes of so many samples.

    Raises:
        InputError, UsageError: a recording cannot be used, and the first one stops.
    """
    found = []
    for one in _examples(data, vocabulary, bad):
        try:
            _check(one, vocabulary, frames, options, data.source)
        except _Unfit as unfit:
            bad(unfit.error, unfit.reason)
        else:
            found.append(one)
    if not found:
        raise UsageError(
            f"`{data.source}` has no recording that can be trained on",
            do="Look at the reasons that are counted, or run `steno data prepare`",
        )
    return found


def evaluation_examples(data: DataSet, vocabulary: Vocabulary, bad: Bad) -> list[Example]:
    """All that can be heard: leaving out what is hard would flatter the model.

    Raises:
        InputError, UsageError: a recording cannot be used, and the first one stops.
    """
    found = list(_examples(data, vocabulary, bad))
    if not found:
        raise UsageError(
            f"`{data.source}` has no recording to evaluate with", do="Give recordings with texts"
        )
    return found


def collapsed(text: str) -> str:
    """The text with single spaces between its words."""
    return " ".join(text.split())


class _Unfit(Exception):  # noqa: N818
    def __init__(self, reason: str, error: StenoError) -> None:
        self.reason, self.error = reason, error


def _examples(data: DataSet, vocabulary: Vocabulary, bad: Bad) -> Iterator[Example]:
    for one in data.recordings:
        text = collapsed(one.text or "")
        try:
            seconds = one.duration if one.duration is not None else _measured(one.audio)
        except InputError as error:
            bad(error)
            continue
        yield Example(one.id, one.audio, text, vocabulary.labels(text), seconds, one.speaker)


def _check(
    one: Example,
    vocabulary: Vocabulary,
    frames: Callable[[int], int],
    options: CtcOptions,
    source: str,
) -> None:
    where = f"`{source}`: `{one.id}`"
    if not options.min_seconds <= one.seconds <= options.max_seconds:
        raise _Unfit(
            "length",
            UsageError(
                f"{where} has {one.seconds:g} s: {options.min_seconds:g} to "
                f"{options.max_seconds:g} are allowed",
                do="Cut it, raise `--max-seconds`, or give `--on-bad skip`",
            ),
        )
    if outside := vocabulary.outside(one.text):
        raise _Unfit(
            "outside_vocabulary",
            UsageError(
                f"{where} has characters that are not in the vocabulary: {''.join(outside)!r:.60}",
                do="Normalise the texts with `steno data prepare`, or give `--on-bad skip`",
            ),
        )
    there, needed = frames(round(one.seconds * SAMPLE_RATE)), frames_needed(one.labels)
    if there < needed:
        raise _Unfit(
            "text_too_long",
            UsageError(
                f"{where} has a text that needs {needed} frames, and audio of {there}",
                do="Check that text and audio belong together, or give `--on-bad skip`",
            ),
        )


def _measured(audio: Path) -> float:
    with media.Recording(audio) as sound:
        return sum(len(block) for block in sound) / SAMPLE_RATE


def _size(one: Recording) -> int | None:
    if one.stored is not None:
        return 0
    try:
        return one.audio.stat().st_size
    except (OSError, ValueError):
        return None


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputNotFound(f"cannot read `{path}`: {error.strerror}", do="Check it") from error


def bad_items(stop: str) -> Bad:
    """What `--on-bad` names."""
    return Bad(stop == STOP)


def total_seconds(examples: Iterable[Example]) -> float:
    """Of all together."""
    return sum(one.seconds for one in examples)
