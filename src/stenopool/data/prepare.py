"""From any source to a checked manifest: `manifest.jsonl`, its splits, and what was left out."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stenopool.data.inspect import Heard, Inspector, Refused, line
from stenopool.data.recording import Recording
from stenopool.data.sources import MANIFEST, read
from stenopool.data.splits import divided, shares
from stenopool.data.summary import draw, summary
from stenopool.data.text import LETTERS, check_way
from stenopool.errors import StenoError, UnknownName, UsageError
from stenopool.files import copy_whole, make_folder, write_whole

SUMMARY, SKIPPED, AUDIO = "summary.json", "skipped.jsonl", "audio"
SKIP, STOP = "skip", "stop"
NO_SPLIT, KEEP_SPLIT = "none", "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How a data set is prepared.

    Attributes:
        normalise: `none`, `lower` or `letters`, see `stenopool.data.text`.
        split: `none`, `keep` (a field `split` of the source), or shares such as `80/10/10`.
        mixed_speakers: let one speaker be in several splits.
        seed: of the splits.
        shortest, longest: seconds.
        on_bad: `skip` lists what cannot be used, `stop` names the first.
        copy: put the audio into the folder too.
    """

    normalise: str = LETTERS
    split: str = NO_SPLIT
    mixed_speakers: bool = False
    seed: int = 0
    shortest: float = 0.1
    longest: float = 30.0
    on_bad: str = SKIP
    copy: bool = False

    def __post_init__(self) -> None:
        check_way(self.normalise)
        if self.on_bad not in (SKIP, STOP):
            raise UnknownName(
                f"`on_bad` cannot be `{self.on_bad}`", do=f"Use one of: {SKIP}, {STOP}"
            )
        if self.split not in (NO_SPLIT, KEEP_SPLIT):
            shares(self.split)
        if not 0 <= self.shortest < self.longest:
            raise UsageError(
                f"no recording is longer than {self.shortest:g} s and shorter than "
                f"{self.longest:g} s",
                do="Give seconds in which there can be one",
            )


@dataclass(slots=True)
class _Skipped:
    stop: bool
    counts: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def __call__(self, error: StenoError, reason: str | None = None, id: str | None = None) -> None:
        if self.stop:
            raise error
        self.counts[reason or "bad_line"] += 1
        told = {"id": id, "reason": reason or "bad_line", "message": error.record()["message"]}
        self.lines.append(json.dumps(told, ensure_ascii=False))


def prepare(
    sources: Sequence[str],
    output: Path,
    how: Preparation,
    report: Callable[[float], None] = lambda seconds: None,
) -> dict[str, Any]:
    """Check all recordings of the sources and write manifests of those that are good.

    Args:
        output: gets `manifest.jsonl`, one manifest a split, `summary.json`, `skipped.jsonl` and
            pictures; it is made if it is missing, and must hold no manifest yet.
        report: called with the seconds of audio that are heard so far.

    Returns:
        What `summary.json` holds.

    Raises:
        InputError, UsageError: a source cannot be read; or, with `stop`, a recording cannot.
        OutputError: the folder cannot take the files.
    """
    if (output / MANIFEST).exists():
        raise UsageError(f"`{output}` holds a manifest already", do="Choose another folder")
    make_folder(output)
    skipped = _Skipped(how.on_bad == STOP)
    inspect = Inspector(how.normalise, how.shortest, how.longest, output)
    heard, places, total = [], {}, 0.0
    for one in _recordings(sources, skipped):
        try:
            found = inspect(one)
        except Refused as refused:
            skipped(refused.error, refused.reason, one.id)
            continue
        places[found.sha256] = _place(found, output, how)
        heard.append(found)
        total += found.seconds
        report(total)
    splits = _splits(heard, how)
    told = {
        "sources": list(sources),
        "normalise": how.normalise,
        "split": how.split,
        "mixed_speakers": how.mixed_speakers,
        "seed": how.seed,
        "seconds_allowed": [how.shortest, how.longest],
        "skipped": dict(skipped.counts),
        **summary(heard, splits),
    }
    _write(output, heard, splits, places, skipped, told)
    return told


def _recordings(sources: Iterable[str], skipped: _Skipped) -> Iterator[Recording]:
    for source in sources:
        yield from read(source, on_bad=skipped)


def _place(one: Heard, output: Path, how: Preparation) -> str:
    """Where the manifest says that the audio is; written there if it is nowhere else."""
    if one.recording.stored is None and not how.copy:
        return Path(os.path.relpath(one.recording.audio.absolute(), output.absolute())).as_posix()
    make_folder(output / AUDIO)
    suffix = one.recording.audio.suffix.lower()
    suffix = suffix if suffix[1:].isalnum() and len(suffix) < 8 else ".audio"
    target = output / AUDIO / f"{one.sha256[:32]}{suffix}"
    with one.recording.file(output) as path:
        copy_whole(path, target)
    return target.relative_to(output).as_posix()


def _splits(heard: Sequence[Heard], how: Preparation) -> dict[str, list[Heard]]:
    if how.split == NO_SPLIT:
        return {}
    found: dict[str, list[Heard]] = {}
    if how.split == KEEP_SPLIT:
        for one in heard:
            found.setdefault(_kept(one), []).append(one)
        return found
    seconds: dict[str, float] = {}
    for one in heard:
        seconds[_group(one, how)] = seconds.get(_group(one, how), 0.0) + one.seconds
    chosen = divided(seconds, shares(how.split), how.seed)
    for name in shares(how.split):
        found[name] = [one for one in heard if chosen[_group(one, how)] == name]
    return found


def _kept(one: Heard) -> str:
    name = str(one.recording.more.get("split") or "")
    if not name.isidentifier() or name == Path(MANIFEST).stem:
        raise UsageError(
            f"`{one.recording.id}` has no `split`: {name!r:.40}",
            do="Give shares such as `--split 80/10/10`",
        )
    return name


def _group(one: Heard, how: Preparation) -> str:
    """What must not be divided: a speaker; or a recording, if nobody knows who speaks."""
    speaker = one.recording.speaker
    if speaker is None or how.mixed_speakers:
        return f"recording {one.sha256}"
    return f"speaker {speaker}"


def _write(
    output: Path,
    heard: Sequence[Heard],
    splits: Mapping[str, Sequence[Heard]],
    places: Mapping[str, str],
    skipped: _Skipped,
    told: Mapping[str, Any],
) -> None:
    """The whole manifest last: where it is, all is there."""

    def document(ones: Sequence[Heard]) -> str:
        lines = (json.dumps(line(one, places[one.sha256]), ensure_ascii=False) for one in ones)
        return "".join(f"{one}\n" for one in lines)

    for name, ones in splits.items():
        write_whole(output / f"{name}.jsonl", document(ones))
    write_whole(output / SKIPPED, "".join(f"{one}\n" for one in skipped.lines))
    draw(heard, output)
    write_whole(output / SUMMARY, json.dumps(told, ensure_ascii=False, indent=2) + "\n")
    write_whole(output / MANIFEST, document(heard))
