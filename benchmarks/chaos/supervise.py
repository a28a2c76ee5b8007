"""`steno run` with another worker command: a script, which needs nothing of this package."""

from __future__ import annotations

import argparse

from stenopool.bucket import open_bucket
from stenopool.cli.run import FORMATS, limits, open_jobs, supervise
from stenopool.decoding.options import Options
from stenopool.pipeline.job import Group
from stenopool.pipeline.watch import Defaults, Watcher


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", nargs="+", required=True, help="of a worker process")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--log-json", action="store_true")
    given = parser.parse_args()
    bucket = open_bucket(given.bucket)
    bucket.prepare()
    jobs, database = open_jobs(given.database, bucket.url)
    defaults = Defaults.of(Group(given.model), FORMATS, Options())
    supervise(
        jobs,
        database,
        limits(given.workers, 0),
        log_json=given.log_json,
        quiet=True,
        bucket=bucket,
        watcher=Watcher(bucket, jobs, defaults),
        command=given.command,
    )


if __name__ == "__main__":
    main()
