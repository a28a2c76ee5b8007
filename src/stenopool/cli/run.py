"""`steno run` and `steno worker`: everything under a bucket's `input/` becomes transcripts."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenopool.cli.console import ProgressBar, clock, emit_json, open_stdout, say
from stenopool.cli.options import DeviceName, EngineName, ModelName, Quiet, Threads, with_options
from stenopool.decoding.options import Options
from stenopool.errors import StenoError, UnknownName, restored

if TYPE_CHECKING:
    from stenopool.bucket import Bucket
    from stenopool.pipeline.job import Group
    from stenopool.pipeline.jobs import Jobs, JobView
    from stenopool.pipeline.pool import Limits
    from stenopool.pipeline.process import Begun
    from stenopool.pipeline.supervisor import Supervisor

FORMATS = ("txt", "srt", "vtt", "json")
INTERRUPTED = 130
ONCE_PATIENCE = 60.0  # seconds of trouble with the storage that `--once` bears for a recording

BucketUrl = Annotated[
    str,
    typer.Option(
        "--bucket", help="Folder, or URL of a bucket: `s3://`, `gs://`, `az://`, `file://`."
    ),
]
Database = Annotated[
    str,
    typer.Option("--database", help="`sqlite:///FILE` or `postgresql://…`; see the settings."),
]
WorkerCount = Annotated[
    int, typer.Option("--workers", min=0, help="Worker processes at most; each holds a model.")
]
JsonLogs = Annotated[bool, typer.Option("--log-json", help="Events as JSON lines on stderr.")]


@with_options
def run(
    *,
    bucket: BucketUrl,
    database: Database = "",
    once: Annotated[bool, typer.Option("--once", help="Do what is there now, then exit.")] = False,
    workers: WorkerCount = 1,
    model: ModelName,
    engine: EngineName = "auto",
    device: DeviceName = "auto",
    threads: Threads = 0,
    format: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", help="Repeatable; txt, srt, vtt and json by default."),
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="One JSON object for each recording on stdout.")
    ] = False,
    log_json: JsonLogs = False,
    quiet: Quiet = False,
    options: Options,
) -> None:
    """Transcribe `input/` of a bucket into `output/`, for as long as it runs.

    Recordings move to `processed/` or, with an error record, to `failed/`. Models are loaded when
    there is something to do, and freed when there is not.
    """
    from stenopool.bucket import open_bucket
    from stenopool.pipeline.job import Group

    if json_lines:
        open_stdout()  # here, not after an hour of work
    group = Group(model_name(model), engine, device)
    check_request(group.model, options)
    opened = open_bucket(bucket)
    opened.prepare()
    with begun(opened, group, workers, threads) as early:
        # These take a second, and so does the database.
        from stenopool.pipeline.schedule import Schedules
        from stenopool.pipeline.watch import Defaults, Watcher

        patience = ONCE_PATIENCE if once else 86_400.0
        defaults = Defaults.of(group, format or FORMATS, options, patience)
        jobs, url = open_jobs(database, opened.url)
        status = supervise(
            jobs,
            url,
            limits(workers, threads),
            early=early,
            once=once,
            json_lines=json_lines,
            log_json=log_json,
            quiet=quiet,
            bucket=opened,
            watcher=Watcher(opened, jobs, defaults),
            duties=[] if once else [Schedules(jobs).tick],
        )
    if status:
        raise typer.Exit(status)


@contextmanager
def begun(bucket: Bucket, group: Group, workers: int, threads: int) -> Iterator[Begun | None]:
    """A worker process for what waits in a bucket: it loads its model while this one comes up."""
    from stenopool.pipeline import process
    from stenopool.pipeline.keys import INPUT
    from stenopool.settings import settings

    waits = None
    with suppress(StenoError):  # the watcher will say so, and try again
        waits = next(iter(bucket.keys(INPUT)), None)
    if not workers or waits is None:
        yield None
        return
    spec = process.Spec(
        group, threads=threads, stall_seconds=settings().stall_seconds, in_company=workers > 1
    )
    early = process.begin(spec)
    try:
        yield early
    finally:
        early.end()


def worker(
    *,
    database: Database = "",
    bucket: Annotated[
        str,
        typer.Option("--bucket", help="Only to find the database that is in a folder's bucket."),
    ] = "",
    workers: WorkerCount = 1,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Repeatable; serve only these models.")
    ] = None,
    device: DeviceName = "auto",
    threads: Threads = 0,
    once: Annotated[bool, typer.Option("--once", help="Exit when the queues are empty.")] = False,
    log_json: JsonLogs = False,
    quiet: Quiet = False,
) -> None:
    """Do the jobs of a database, on any machine that reaches it and the buckets.

    SIGTERM lets it finish what is being read; other workers go on with the rest.
    """
    from stenopool.bucket import open_bucket
    from stenopool.pipeline.schedule import Schedules

    url = open_bucket(bucket).url if bucket else ""
    jobs, database_url = open_jobs(database, url)
    chosen = limits(workers, threads, device=device, models=tuple(map(model_name, model or ())))
    duties = [] if once else [Schedules(jobs).tick]
    status = supervise(
        jobs, database_url, chosen, once=once, log_json=log_json, quiet=quiet, duties=duties
    )
    if status:
        raise typer.Exit(status)


def open_jobs(database: str, bucket_url: str) -> tuple[Jobs, str]:
    """The jobs of a database, and its URL.

    Raises:
        UsageError: no database is named, or it cannot be opened.
    """
    from stenopool.errors import UsageError
    from stenopool.pipeline.database import default_database, open_database
    from stenopool.pipeline.jobs import Jobs
    from stenopool.settings import settings

    url = database or settings().database
    if not url and not bucket_url:
        raise UsageError(
            "which database?",
            do="Name it with `--database` or `STENO_DATABASE`, or give `--bucket`",
        )
    url = url or default_database(bucket_url)
    return Jobs(open_database(url)), url


def limits(
    workers: int,
    threads: int,
    *,
    device: str = "auto",
    models: tuple[str, ...] = (),
    reserved: str = "",
) -> Limits:
    """What the worker processes keep to, as the settings say."""
    import psutil

    from stenopool.pipeline.pool import Limits
    from stenopool.settings import settings

    given = settings()
    share = 0.8 * psutil.virtual_memory().total / max(1, workers)
    memory = given.worker_memory_gb * 2**30 or share
    return Limits(
        most=workers,
        threads=threads,
        idle_seconds=given.idle_seconds,
        stall_seconds=given.stall_seconds,
        memory_bytes=int(memory),
        device=device,
        models=models,
        reserved=reserved,
    )


def supervise(
    jobs: Jobs,
    database: str,
    limits: Limits,
    *,
    once: bool = False,
    json_lines: bool = False,
    log_json: bool = False,
    quiet: bool = False,
    **more: Any,  # noqa: ANN401  of `Supervisor`
) -> int:
    """Run a supervisor until it is told to stop; gives the highest exit status of all errors."""
    from stenopool.pipeline.events import show_events
    from stenopool.pipeline.supervisor import Supervisor
    from stenopool.settings import settings

    if log_json:
        show_events()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    with ProgressBar(quiet=quiet or log_json) as bar:
        talk = Talk(bar, quiet=quiet or log_json, json_lines=json_lines)
        given = {"history_days": settings().history_days, **more}
        supervisor = Supervisor(jobs, database, limits, talk, stopping=stop.is_set, **given)
        failures = supervisor.run(once=once)
        talk.refused(supervisor)
        if once and not quiet:
            say(talk.summary())
    if json_lines and once:
        emit_json({"summary": talk.counts()})
    return INTERRUPTED if once and stop.is_set() else _status(failures, talk)


def _status(failures: dict[Group, dict[str, Any]], talk: Talk) -> int:
    from stenopool.cli.console import complain

    statuses = [talk.exit_status]
    for error in failures.values():
        complain(restored(error))
        statuses.append(restored(error).exit_status)
    return max(statuses)


@dataclass
class Talk:
    """Tells a person on stderr, and a program on stdout, what becomes of each recording."""

    bar: ProgressBar
    quiet: bool
    json_lines: bool
    outcomes: dict[str, int] = field(default_factory=dict)
    exit_status: int = 0

    def running(self, jobs: Sequence[JobView]) -> None:
        if not jobs:
            return
        first = jobs[0]
        more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        self.bar.begin(f"{first.job.key}{more}")
        done = sum(job.done_seconds for job in jobs)
        totals = [job.total_seconds for job in jobs]
        self.bar.update(done, sum(one or 0.0 for one in totals) if all(totals) else None)

    def ended(self, job: JobView) -> None:
        self.outcomes[job.state] = self.outcomes.get(job.state, 0) + 1
        if job.error and job.state in {"failed", "left", "broken"}:
            self.exit_status = max(self.exit_status, restored(job.error).exit_status)
        self.bar.end()
        if job.state == "failed" or not self.quiet:
            for line in _lines(job):
                say(line)
        if self.json_lines:
            emit_json(_data(job))

    def refused(self, supervisor: Supervisor) -> None:
        """Say what stands in `input/` and cannot be a recording."""
        for error in (supervisor.watcher.refused if supervisor.watcher else {}).values():
            say(f"error[{error.code}]: {error.what}")
            say(f"hint: {error.do}")
            self.exit_status = max(self.exit_status, error.exit_status)
            self.outcomes["left"] = self.outcomes.get("left", 0) + 1

    def counts(self) -> dict[str, int]:
        return {
            "transcribed": self.outcomes.get("done", 0),
            "failed": self.outcomes.get("failed", 0),
            "left": sum(self.outcomes.get(one, 0) for one in ("left", "broken", "cancelled")),
            "exit_status": self.exit_status,
        }

    def summary(self) -> str:
        counts = self.counts()
        return ", ".join(f"{counts[name]} {name}" for name in ("transcribed", "failed", "left"))


def _lines(job: JobView) -> list[str]:
    key = job.job.key
    if job.error and job.state in {"failed", "left", "broken"}:
        outcome = "moved to failed/" if job.state == "failed" else "stays in input/"
        error = job.error
        return [
            f"{key}: {outcome}: error[{error['code']}]: {error['message']}",
            f"hint: {error['hint']}",
        ]
    if job.state != "done":
        return [f"{key}: {job.state}"]
    factor = job.real_time_factor or 0.0
    return [
        f"{key}: {clock(job.total_seconds or 0.0)} of audio in {job.compute_seconds:.1f} s, "
        f"real-time factor {factor:.3f}"
    ]


def _data(job: JobView) -> dict[str, object]:
    from stenopool.pipeline.keys import output_key
    from stenopool.settings import settings

    outputs = [output_key(job.job.key, name) for name in job.job.formats]
    data = job.to_dict(settings().price_per_hour)
    return {**data, "outputs": outputs if job.state == "done" else []}


def model_name(model: str) -> str:
    """The name of a model, with its version; a folder's whole path: workers run elsewhere."""
    from pathlib import Path

    from stenopool.models import Store

    try:
        return Store().pinned(model)  # as for the store: names win over folders
    except UnknownName:
        return str(Path(model).absolute()) if Path(model).is_dir() else model


def check_request(model: str, options: Options) -> None:
    """Refuse at once what would else fail for each recording.

    Raises:
        UnknownName, UnsupportedOption: there is no such model, or it cannot honour the options.
    """
    from stenopool.models import Store, entry

    if os.sep in model or Store().registry.has(model):
        return
    known = entry(model)
    options.resolved(
        algorithm=known.algorithm,
        chunk_seconds=known.chunk_seconds,
        multilingual=known.multilingual,
        beam_size=1,
        batch_size=1,
    )
