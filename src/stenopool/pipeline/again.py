"""Ended jobs done once more, or forgotten with everything that came of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import sqlalchemy as sa

from stenopool.bucket import Bucket, Key, open_bucket
from stenopool.errors import InputNotFound, UsageError
from stenopool.pipeline import keys
from stenopool.pipeline.checkpoints import Checkpoints
from stenopool.pipeline.jobs import ACTIVE, Jobs, JobView
from stenopool.pipeline.watch import Defaults, Watcher
from stenopool.writers import FORMATS


def retry(
    jobs: Jobs,
    ended: JobView,
    also: Callable[[sa.Connection, str], object] = lambda connection, id: None,
) -> str:
    """Submit a job once more, its recording moved back to `input/`; gives the new id.

    Args:
        also: what to do with the new id in the same transaction.

    Raises:
        UsageError: it has not ended, or was done.
        InputNotFound: the recording is neither in `input/` nor in `failed/`.
    """
    job = ended.job
    if ended.state in ACTIVE or ended.state == "done":
        raise UsageError(
            f"job `{ended.id}` is {ended.state}",
            do="Put the recording into `input/` again to transcribe it anew",
        )
    bucket = open_bucket(job.bucket)
    if bucket.stamp(job.key) is None:
        bucket.move(keys.failed_key(job.key), job.key)
        sidecar = keys.sidecar_key(job.key)
        bucket.move(keys.sidecar_key(keys.failed_key(job.key)), sidecar)
    stamp = bucket.stamp(job.key)
    if stamp is None:
        raise InputNotFound(f"`{job.key}` is gone", do="Put the recording into `input/` again")
    if job.refused:  # what was wrong with its options may be right by now
        defaults = Defaults(job.group, job.formats, job.options, job.patience)
        job = Watcher(bucket, jobs, defaults).with_sidecars(replace(job, refused=None))
    return jobs.again(job, stamp, also)


def clear_work(ended: JobView) -> None:
    """Remove what a job has left in `work/`: once it is forgotten, nobody knows whose that is."""
    Checkpoints(open_bucket(ended.job.bucket), ended.id).clear()


def delete_data(ended: JobView) -> None:
    """Remove the recording of a job, its documents and its error record."""
    bucket, key = open_bucket(ended.job.bucket), ended.job.key
    if bucket.stamp(key) == ended.job.stamp:  # of one that was cancelled or left
        bucket.delete(key)
        bucket.delete(keys.sidecar_key(key))
    delete_recording(bucket, key)


def delete_recording(bucket: Bucket, key: Key) -> None:
    """Remove a recording that is not in `input/` any more, its documents and its error record."""
    for place in (keys.processed_key(key), keys.failed_key(key)):
        bucket.delete(place)
        bucket.delete(keys.sidecar_key(place))
    bucket.delete(keys.record_key(key))
    for name in FORMATS:
        bucket.delete(keys.output_key(key, name))
