"""Recordings on their way into the bucket, and submissions on their way to an end.

What is stored stands at `input/api/<random>-<name>`; watchers pass over it (`keys.is_recording`),
for they know nothing of the options. (A folder for each would be left empty.) A submission is in
the database before anything is stored for it, so that what a dead server has left there is known,
and is removed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool

from stenopool.bucket import Bucket, Key, Stamp
from stenopool.bucket.base import gone
from stenopool.errors import StenoError, StorageError, UsageError
from stenopool.pipeline import again, keys
from stenopool.pipeline.events import event
from stenopool.pipeline.job import Job, generation_of, key_digest, numbered
from stenopool.pipeline.jobs import ACTIVE, state_of
from stenopool.service.remote import Remote
from stenopool.service.submissions import (
    ENDED,
    FETCHING,
    IN_HAND_SECONDS,
    STORING,
    Submission,
    Submissions,
    Superseded,
    WrongState,
)
from stenopool.service.uploads import Uploads
from stenopool.service.webhooks import Outcome, pause

STORES_AT_ONCE = 8
FETCHES_AT_ONCE = 8
FETCHES_OF_ONE = 4  # owner, so that slow ones hold nobody else up
MOST_FETCHES = 8  # attempts, over some hours
LOOK_SECONDS = 0.5
FORGET_SECONDS = 3600.0
DAY = 86_400.0
NAMELESS = "recording"

_STRANGE = re.compile(r"[^\w.\- ()]")
_LONGEST_STEM = 150  # bytes
_LONGEST_SUFFIX = 12


class Intake:
    """Takes recordings in.

    Args:
        history_days: after which submissions that have ended are forgotten.
    """

    def __init__(
        self,
        submissions: Submissions,
        bucket: Bucket,
        uploads: Uploads,
        remote: Remote,
        history_days: float,
    ) -> None:
        self._submissions = submissions
        self._bucket = bucket
        self._uploads = uploads
        self._remote = remote
        self._history = history_days * DAY
        self._storers = ThreadPoolExecutor(STORES_AT_ONCE, thread_name_prefix="steno-store")
        self._underway: dict[asyncio.Task[None], str] = {}  # and whose it is
        self._forget_at = 0.0

    async def store(self, made: Submission, path: Path) -> Submission | None:
        """Make an upload a job; gives the submission of the same idempotency key if there is one.

        Raises:
            StenoError: it could not be stored; nothing is kept of it.
        """
        made = replace(made, due=time.time() + IN_HAND_SECONDS)
        earlier = await run_in_threadpool(self._submissions.add, made)
        if earlier is None:
            try:
                await self._held(made, self._stored(made, path))
            except StenoError as error:
                await run_in_threadpool(self._submissions.put_off, made, 0.0, error)
                raise
        return earlier

    def adopt(self, made: Submission) -> Submission | None:
        """Make a recording that is in the bucket a job; gives what `store` gives.

        Raises:
            InputNotFound: there is none of this name.
            WrongState: it is being transcribed in another way.
        """
        job = self._job(made)
        jobs = self._submissions.jobs
        last = jobs.latest(job.digest)
        number = generation_of(last.workflow_id) if last else 1
        if last and state_of(last) not in ACTIVE:
            number += 1
        made = replace(made, job=numbered(job.digest, number))
        if earlier := self._submissions.add(made, job):
            return earlier
        found = jobs.views([made.job]).get(made.job)
        if found and (found.job.group, dict(found.job.options)) != (job.group, dict(job.options)):
            self._submissions.delete(made)
            raise WrongState(
                f"`{made.key}` is being transcribed in another way", do="Wait until that is done"
            )
        return None

    def retry(self, one: Submission) -> None:
        """Do once more what has ended.

        Raises:
            WrongState: it has not, or was done.
            InputNotFound: the recording is not there any more.
        """
        if one.stage != ENDED or one.state == "done":
            raise WrongState(f"job `{one.id}` is {one.state or one.stage}", do="Submit a new one")
        submissions = self._submissions
        if not one.job:
            with submissions.jobs.engine.begin() as connection:
                submissions.begin_anew(connection, one, "")
            return
        view = submissions.views([one]).get(one.id)
        if view is None:
            raise WrongState(f"job `{one.id}` is gone", do="Submit a new one")
        again.retry(
            submissions.jobs,
            view,
            lambda connection, id: submissions.begin_anew(connection, one, id),
        )

    def cancel(self, one: Submission) -> None:
        """Stop what has not ended.

        Raises:
            WrongState: it has.
        """
        if one.stage == ENDED:
            raise WrongState(f"job `{one.id}` is {one.state}", do="There is nothing to cancel")
        try:
            if one.job and not self._submissions.is_shared(one):
                self._submissions.jobs.cancel(one.job)
        except UsageError as error:
            raise WrongState(error.what, do=error.do) from error
        with suppress(Superseded):  # whoever looked has seen that the job has ended
            self._submissions.end(one, Outcome(one.id, one.key, "cancelled", None, 0.0))

    def delete(self, one: Submission) -> None:
        """Forget what has ended, with its recording and documents, unless others have it too.

        Raises:
            WrongState: it has not ended.
        """
        if one.stage != ENDED:
            raise WrongState(f"job `{one.id}` has not ended", do="Cancel it first")
        if not self._submissions.is_shared(one):
            self._delete_data(one)
        self._submissions.delete(one)

    async def run(self) -> None:
        """Fetch what is to be fetched and see what has ended, for as long as the server runs."""
        while True:
            try:
                await asyncio.to_thread(self._tidy)
                await self._begin_some()
            except StenoError as error:
                event("trouble", logging.WARNING, **error.record())
            except sa.exc.DBAPIError as error:
                event("trouble", logging.WARNING, code="database", message=str(error.orig))
            await asyncio.sleep(LOOK_SECONDS)

    async def stop(self) -> None:
        """End fetches that are under way; they are begun again."""
        underway = list(self._underway)
        for task in underway:
            task.cancel()
        await asyncio.gather(*underway, return_exceptions=True)
        self._storers.shutdown(wait=False, cancel_futures=True)

    def _tidy(self) -> None:
        self._submissions.settle()
        for one in self._submissions.due(STORING, FETCHES_AT_ONCE):
            self._drop(one)
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + FORGET_SECONDS
            self._submissions.forget(time.time() - self._history)

    def _drop(self, one: Submission) -> None:
        """Remove what somebody began to store and never will end."""
        try:
            one = self._submissions.take(one)
        except Superseded:
            return
        if keys.is_upload(one.key):
            self._bucket.delete(one.key)
        self._submissions.delete(one)

    async def _begin_some(self) -> None:
        busy = Counter(self._underway.values())
        full = [owner for owner, count in busy.items() if count >= FETCHES_OF_ONE]
        free = FETCHES_AT_ONCE - busy.total()
        for one in await asyncio.to_thread(self._submissions.due, FETCHING, free, full):
            if busy[one.owner] < FETCHES_OF_ONE:
                busy[one.owner] += 1
                await self._begin(one)

    async def _begin(self, one: Submission) -> None:
        try:
            taken = await asyncio.to_thread(
                self._submissions.take,
                one,
                attempts=one.attempts + 1,
                key=upload_key(one.wanted.name) if one.attempts else one.key,
            )
        except Superseded:
            return
        task = asyncio.create_task(self._fetch(taken, one.key))
        self._underway[task] = one.owner
        task.add_done_callback(self._underway.pop)

    async def _fetch(self, one: Submission, earlier: Key) -> None:
        """Fetch a recording and make it a job.

        Args:
            earlier: where an attempt that was cut off may have put it.
        """
        try:
            if earlier != one.key:
                await asyncio.to_thread(self._bucket.delete, earlier)
            with self._uploads.new(one.wanted.name) as path:
                await self._held(one, self._read_in(one, path))
        except Superseded:
            return
        except sa.exc.DBAPIError as error:  # it is taken up again when its time in hand is over
            event("trouble", logging.WARNING, code="database", message=str(error.orig))
        except StenoError as error:
            event(
                "fetch_failed", logging.WARNING, job=one.id, attempt=one.attempts, code=error.code
            )
            await asyncio.to_thread(self._failed, one, error)

    def _failed(self, one: Submission, error: StenoError) -> None:
        passes = error.transient or isinstance(error, StorageError)
        try:
            if passes and one.attempts < MOST_FETCHES:
                self._submissions.put_off(one, pause(one.attempts), error)
            else:
                self._submissions.end(one, Outcome(one.id, one.key, "failed", error.record(), 0.0))
        except Superseded:
            return

    async def _read_in(self, one: Submission, path: Path) -> None:
        await self._remote.fetch(one.wanted.url, path, self._uploads.most_bytes)
        await self._stored(one, path)

    async def _stored(self, one: Submission, path: Path) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._storers, self._store, one, path)

    def _store(self, one: Submission, path: Path) -> None:
        self._bucket.put_file(one.key, path)
        job = self._job(one)
        try:
            self._submissions.give(one, numbered(job.digest, 1), job)
        except Superseded:
            self._bucket.delete(one.key)
            raise

    async def _held(self, one: Submission, work: Awaitable[None]) -> None:
        """Do work while keeping a submission in hand.

        Raises:
            Superseded: it was cancelled, or somebody else has taken it up.
        """
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=IN_HAND_SECONDS / 3))[0]:
                one = await asyncio.to_thread(self._submissions.take, one)
            task.result()
        finally:
            task.cancel()

    def _job(self, one: Submission) -> Job:
        stamp: Stamp | None = self._bucket.stamp(one.key)
        if stamp is None:
            raise gone(one.key)
        wanted = one.wanted
        return Job(self._bucket.url, one.key, stamp, wanted.group, wanted.formats, wanted.options)

    def _delete_data(self, one: Submission) -> None:
        if keys.is_upload(one.key):
            self._bucket.delete(one.key)
        again.delete_recording(self._bucket, one.key)
        jobs = self._submissions.jobs
        ids = [one.job, *jobs.spans(one.job)] if one.job else []
        if keys.is_upload(one.key):  # then nobody else has jobs of it
            prefix = key_digest(self._bucket.url, one.key)
            rows = jobs.client.list_workflows(workflow_id_prefix=prefix, load_input=False)
            ids = [row.workflow_id for row in rows]
        for id in filter(keys.is_job_id, ids):
            self._bucket.delete_below(keys.job_folder(id))
        if ids:
            jobs.client.delete_workflows(ids)


def upload_key(name: str) -> Key:
    """A new place for a recording."""
    return f"{keys.UPLOADS}{secrets.token_hex(16)}-{safe_name(name)}"


def safe_name(name: str) -> str:
    """The last part of what a client calls its file, as a file may be called anywhere."""
    last = re.split(r"[/\\]", name)[-1]
    clean = _STRANGE.sub("_", last).strip(". ")
    stem, dot, suffix = clean.rpartition(".")
    if not dot or len(suffix) > _LONGEST_SUFFIX:
        stem, dot, suffix = clean, "", ""
    short = stem.encode()[:_LONGEST_STEM].decode(errors="ignore")
    return f"{short or NAMELESS}{dot}{suffix}"
