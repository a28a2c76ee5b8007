"""What it takes to find and queue all that stands in a bucket: `listing.py BUCKET DATABASE`.

A script, which needs nothing of this package; prints JSON. Nobody works on the jobs.
"""

from __future__ import annotations

import json
import resource
import sys
import time

from stenopool.bucket import open_bucket
from stenopool.cli.run import FORMATS, open_jobs
from stenopool.decoding.options import Options
from stenopool.pipeline.job import Group
from stenopool.pipeline.watch import Defaults, Watcher


def main(url: str, database: str) -> None:
    """Look three times: the first finds all, the others nothing."""
    bucket = open_bucket(url)
    jobs, _ = open_jobs(database, bucket.url)
    watcher = Watcher(bucket, jobs, Defaults.of(Group("none"), FORMATS, Options()))
    before, times, found = _peak(), [], []
    for _ in range(3):
        begun = time.monotonic()
        found.append(watcher.look()[0])
        times.append(time.monotonic() - begun)
    begun = time.monotonic()
    jobs.counts()
    figures = {
        "jobs": found[0],
        "found again": found[1] + found[2],
        "first look, seconds": times[0],
        "keys a second": found[0] / times[0],
        "later look, seconds": min(times[1:]),
        "counts, seconds": time.monotonic() - begun,
        "peak MB": _peak(),
        "of which before": before,
    }
    print(json.dumps(figures))


def _peak() -> float:
    """Resident memory of this process at its highest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
