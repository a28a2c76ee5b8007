"""From what stands in `input/` to jobs: each state of each recording once, whoever looks."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from dbos import WorkflowStatus

from stenopool.bucket import Bucket, Key, Stamp
from stenopool.decoding.options import Options
from stenopool.engines import DEVICES
from stenopool.errors import InputError, OutputError, StenoError, UsageError
from stenopool.models import Store
from stenopool.models.catalogue import shown
from stenopool.pipeline import keys
from stenopool.pipeline.events import event
from stenopool.pipeline.job import ANY_DEVICE, COMMIT, Group, Job, changes, generation_of, numbered
from stenopool.pipeline.jobs import Jobs, state_of
from stenopool.writers import check_format

PAGE = 500  # keys that are looked up and submitted together
SETTLED_SECONDS = 10.0  # files that nobody has written to for so long are complete
STILL_SECONDS = 1.0  # younger ones must look the same after this time
MOST_YOUNG = 10_000  # that are remembered from one look to the next

_OVER = ("SUCCESS", "ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


@dataclass(frozen=True, slots=True)
class Defaults:
    """How recordings are transcribed that do not say otherwise."""

    group: Group
    formats: tuple[str, ...]
    options: Mapping[str, Any]
    patience: float = 86_400.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Defaults:
        """The inverse of `to_dict`."""
        given = dict(data)
        given["group"] = Group(**given["group"])
        given["formats"] = tuple(given["formats"])
        return cls(**given)

    @classmethod
    def of(
        cls, group: Group, formats: Iterable[str], options: Options, patience: float = 86_400.0
    ) -> Defaults:
        """From what a command was told.

        Raises:
            UnknownName: no such format.
        """
        return cls(group, _with_commit(formats), changes(options), patience)


class Watcher:
    """Looks into `input/` of one bucket, and submits what is new.

    Attributes:
        refused: what cannot be a recording, and why, at the last look.
    """

    def __init__(self, bucket: Bucket, jobs: Jobs, defaults: Defaults) -> None:
        self._bucket = bucket
        self._is_folder = bucket.url.startswith("file://")
        self._jobs = jobs
        self._defaults = defaults
        self._young: dict[Key, tuple[Stamp, float]] = {}
        self._sidecars: dict[Key, tuple[Stamp, dict[str, Any] | UsageError]] = {}
        self._begun = time.time()
        self._page: dict[Key, Stamp] = {}  # the sidecars of the page that is looked at
        self._borders = ("", "")
        self._asked: dict[Key, Stamp | None] = {}  # sidecars, in this look
        self.refused: dict[Key, StenoError] = {}

    def look(self) -> tuple[int, int]:
        """Look once.

        Returns:
            how many jobs were submitted, and how many recordings were left for the next look.
        """
        submitted, young = 0, 0
        remembered, self._young = self._young, {}
        self.refused = {}
        self._asked = {}
        entries = self._bucket.entries(keys.INPUT, self._refuse)
        while page := list(islice(entries, PAGE)):
            self._page = {key: stamp for key, stamp in page if key.endswith(keys.SIDECAR_SUFFIX)}
            self._borders = page[0][0], page[-1][0]
            recordings = [one for one in page if keys.is_recording(one[0])]
            complete = [one for one in recordings if self._is_complete(*one, remembered)]
            young += len(recordings) - len(complete)
            submitted += self._submit(complete)
        self._page, self._borders = {}, ("", "")
        return submitted, young

    def collect(self) -> list[tuple[str, Job]]:
        """Everything new that is there now, as jobs that are not submitted yet."""
        self._asked = {}
        found: list[tuple[Key, Stamp]] = []
        young: list[tuple[Key, Stamp]] = []
        for key, stamp in self._bucket.entries(keys.INPUT, self._refuse):
            if keys.is_recording(key):
                (found if self._is_complete(key, stamp, {}) else young).append((key, stamp))
        if young:
            time.sleep(STILL_SECONDS)
            found += [(key, stamp) for key, stamp in young if self._bucket.stamp(key) == stamp]
        return [
            job for at in range(0, len(found), PAGE) for job in self._new(found[at : at + PAGE])
        ]

    def _submit(self, entries: Sequence[tuple[Key, Stamp]]) -> int:
        fresh = self._new(entries)
        self._jobs.submit(fresh)
        for job_id, job in fresh:
            event("job_found", job=job_id, key=job.key, size=job.stamp.size)
        return len(fresh)

    def _new(self, entries: Sequence[tuple[Key, Stamp]]) -> list[tuple[str, Job]]:
        """Recordings as jobs, with their ids, unless they are that already."""
        jobs = [self._job(*one) for one in entries]
        return [(job_id, self.with_sidecars(job)) for job_id, job in self._fresh(jobs)]

    def _fresh(self, jobs: list[Job]) -> Iterator[tuple[str, Job]]:
        first = {numbered(job.digest, 1): job for job in jobs}
        known = self._jobs.of_ids([*first])
        for job_id, job in first.items():
            if job_id not in known:
                yield job_id, job
            elif number := self._next_generation(job, known[job_id]):
                yield numbered(job.digest, number), job

    def _next_generation(self, job: Job, row: WorkflowStatus) -> int | None:
        """The number of a new job for a state of a recording that was a job before; None if it is
        one still, or was cancelled."""
        if row.status not in _OVER:
            return None
        last = self._jobs.latest(job.digest) or row
        if last.status not in _OVER:
            return None
        # Given up for now, or met a defect: this watcher tries again only what ended before it.
        ended_after = (last.completed_at or 0) / 1000 > self._begun
        if state_of(last) in {"left", "broken"} and ended_after:
            return None
        if self._bucket.stamp(job.key) != job.stamp:
            return None  # the job has ended since the listing, and has moved it away
        return generation_of(last.workflow_id) + 1

    def _is_complete(
        self, key: Key, stamp: Stamp, remembered: Mapping[Key, tuple[Stamp, float]]
    ) -> bool:
        """Whether nobody is writing to a file any more. Objects appear whole."""
        if not self._is_folder:
            return True
        age = time.time() - stamp.mtime_ns / 1e9
        if age > SETTLED_SECONDS:
            return True
        now = time.monotonic()
        seen, since = remembered.get(key, (stamp, now))
        if seen == stamp and now - since >= STILL_SECONDS:
            return True
        if len(self._young) < MOST_YOUNG:
            self._young[key] = (stamp, since if seen == stamp else now)
        return False

    def _job(self, key: Key, stamp: Stamp) -> Job:
        given = self._defaults
        return Job(
            self._bucket.url,
            key,
            stamp,
            given.group,
            given.formats,
            given.options,
            patience=given.patience,
        )

    def with_sidecars(self, job: Job) -> Job:
        """With the options of the sidecars that apply to it, the nearest one last.

        One that cannot be used goes with the job, which then fails and says why.
        """
        group, formats, options = job.group, job.formats, dict(job.options)
        for sidecar in [*keys.prefix_sidecars(job.key), keys.sidecar_key(job.key)]:
            said = self._said(sidecar)
            if isinstance(said, UsageError):
                return replace(job, refused=said.record())
            changed = dict(said)
            model, device = changed.pop("model", group.model), changed.pop("device", group.device)
            group = replace(group, model=model, device=device)
            formats = tuple(changed.pop("formats", formats))
            options |= changed
        return replace(job, group=group, formats=formats, options=options)

    def _said(self, sidecar: Key) -> dict[str, Any] | UsageError:
        try:
            stamp = self._stamp_of(sidecar)
            if stamp is None:
                return {}
            known = self._sidecars.get(sidecar)
            if known and known[0] == stamp:
                return known[1]
            document = self._bucket.read(sidecar)
        except (InputError, OutputError) as error:
            # A link, or one that may not be read: the concern of its recordings, and of no other.
            return {} if _is_too_long(error) else UsageError(error.what, do=error.do)
        if document is None:
            return {}
        try:
            said: dict[str, Any] | UsageError = parsed_sidecar(document)
        except UsageError as error:
            said = UsageError(f"`{sidecar}`: {error.what}", do=error.do)
        if len(self._sidecars) >= PAGE:
            self._sidecars.clear()
        self._sidecars[sidecar] = (stamp, said)
        return said

    def _stamp_of(self, sidecar: Key) -> Stamp | None:
        """Of a sidecar, if there is one; a request for each recording is too many."""
        first, last = self._borders
        if not self._is_folder and first <= sidecar <= last:
            return self._page.get(sidecar)  # the listings of object stores are sorted
        if sidecar not in self._asked:
            if len(self._asked) >= MOST_YOUNG:
                self._asked.clear()
            self._asked[sidecar] = self._bucket.stamp(sidecar)
        return self._asked[sidecar]

    def _refuse(self, key: Key, error: StenoError) -> None:
        if not keys.is_hidden(key):
            self.refused[key] = error


def _is_too_long(error: StenoError) -> bool:
    """Whether the file system can hold no file of this name."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG


def parsed_sidecar(document: bytes) -> dict[str, Any]:
    """What a sidecar says, checked.

    Raises:
        UsageError: it is no JSON object, or something in it is unknown or has a wrong value.
    """
    try:
        data = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON: {error}", do="Correct the file") from error
    if not isinstance(data, dict):
        raise UsageError("not a JSON object", do='Write `{"language": "de"}`, for example')
    said = dict(data)
    for name in ("model", "device"):
        if not isinstance(data.get(name, ""), str):
            raise UsageError(f"`{name}` is not text", do="Give a name")
    # No worker could be started for them, so no job would ever say what is wrong.
    if os.sep not in (model := said.get("model", os.sep)):
        said["model"] = Store().pinned(model)
    if (device := said.get("device", ANY_DEVICE)) not in (ANY_DEVICE, *DEVICES):
        raise UsageError(f"no such device: `{shown(device)}`", do="Use `auto`, `cpu` or `cuda`")
    if "formats" in said:
        formats = said["formats"]
        if not isinstance(formats, list) or not all(isinstance(one, str) for one in formats):
            raise UsageError("`formats` is not a list of names", do='Write `["txt", "srt"]`')
        said["formats"] = _with_commit(formats)
    Options.of(**{name: said[name] for name in said if name not in {"model", "device", "formats"}})
    return said


def _with_commit(formats: Iterable[str]) -> tuple[str, ...]:
    for name in formats:
        check_format(name)
    return (*dict.fromkeys(name for name in formats if name != COMMIT), COMMIT)
