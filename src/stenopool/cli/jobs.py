"""`steno jobs` and `steno queue`: what happens to recordings, and what waits."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenopool.cli.console import clock, emit, emit_json, printable, say
from stenopool.cli.run import Database, open_jobs
from stenopool.errors import UnknownName, UsageError
from stenopool.text import encodable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stenopool.pipeline.jobs import Jobs, JobView

app = typer.Typer(help="See and change the jobs of a database.", no_args_is_help=True)

BucketOfDatabase = Annotated[
    str, typer.Option("--bucket", help="Whose database it is, where none is named.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
JobName = Annotated[
    str, typer.Argument(help="Id of the job, the beginning of it, or the recording's key.")
]


@app.command("list")
def list_jobs(
    database: Database = "",
    bucket: BucketOfDatabase = "",
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            help="Repeatable: waiting, running, done, failed, cancelled, left, gone or broken.",
        ),
    ] = None,
    batch: Annotated[str, typer.Option("--batch", help="Only those of a batch.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most of each state.")] = 100,
    json_lines: AsJson = False,
) -> None:
    """The newest jobs of each state."""
    from stenopool.pipeline.jobs import STATES
    from stenopool.settings import settings

    for name in state or ():
        if name not in STATES:
            raise UnknownName(f"no such state: `{name}`", do=f"Use one of: {', '.join(STATES)}")
    wanted = [name for name in STATES if not state or name in state]
    jobs, _ = _jobs(database, bucket)
    found = jobs.listed(states=wanted, batch=batch, limit=limit)
    if json_lines:
        for job in found:
            emit_json(job.to_dict(settings().price_per_hour))
    else:
        print_table([_row(job) for job in found])


@app.command()
def show(
    job: JobName,
    database: Database = "",
    bucket: BucketOfDatabase = "",
    timeline: Annotated[
        bool, typer.Option("--timeline", help="How long each step of it took.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """All that is known of one job."""
    from stenopool.settings import settings

    jobs, url = _jobs(database, bucket)
    found = jobs.find(job, url)
    steps = jobs.timeline(found.id) if timeline else []
    data = found.to_dict(settings().price_per_hour)
    if as_json:
        emit_json({**data, **({"timeline": steps} if timeline else {})})
        return
    for name, value in data.items():
        if value not in (None, "", 0, 0.0) or name == "state":
            emit(f"{name:18} {printable(_shown(name, value))}\n")
    for step in steps:
        emit(f"  {_moment(step['started'])}  {step['seconds']:9.2f} s  {step['name']}\n")


@app.command()
def cancel(job: JobName, database: Database = "", bucket: BucketOfDatabase = "") -> None:
    """Stop a job; its recording stays in `input/` and is left alone until `retry`."""
    jobs, url = _jobs(database, bucket)
    found = jobs.find(job, url)
    jobs.cancel(found.id)
    say(f"cancelled: {found.id}")


@app.command()
def retry(job: JobName, database: Database = "", bucket: BucketOfDatabase = "") -> None:
    """Do a job that failed or was cancelled once more, with the options that it had."""
    from stenopool.pipeline.again import retry as retried

    jobs, url = _jobs(database, bucket)
    say(f"submitted: {retried(jobs, jobs.find(job, url))}")


@app.command()
def delete(
    job: JobName,
    database: Database = "",
    bucket: BucketOfDatabase = "",
    data: Annotated[
        bool, typer.Option("--data", help="Its recording and documents too, for ever.")
    ] = False,
) -> None:
    """Forget a job that has ended."""
    from stenopool.pipeline.again import clear_work, delete_data

    jobs, url = _jobs(database, bucket)
    found = jobs.find(job, url)
    jobs.delete(found.id)
    clear_work(found)
    if data:
        delete_data(found)
    say(f"deleted: {found.id}")


def queue(
    database: Database = "",
    bucket: BucketOfDatabase = "",
    as_json: AsJson = False,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Prometheus text, for autoscalers.")
    ] = False,
) -> None:
    """What waits and runs for each model, and how many workers there are."""
    from stenopool.pipeline.queue import depths, prometheus

    if as_json and metrics:
        raise UsageError("`--json` and `--metrics` exclude each other", do="Choose one")
    found = depths(_jobs(database, bucket)[0])
    if metrics:
        emit(prometheus(found))
    elif as_json:
        emit_json({"queues": [one.to_dict() for one in found]})
    else:
        header = ("model", "device", "waiting", "running", "spans waiting", "workers")
        rows = [
            (one.model, one.device, one.waiting, one.running, one.spans_waiting, one.workers)
            for one in found
        ]
        print_table([tuple(map(str, row)) for row in rows], header)


def _jobs(database: str, bucket: str) -> tuple[Jobs, str]:
    from stenopool.bucket import open_bucket

    url = open_bucket(bucket).url if bucket else ""
    return open_jobs(database, url)[0], url


_HEADER = ("id", "state", "key", "audio", "progress", "left", "tries", "factor")


def _row(job: JobView) -> tuple[str, ...]:
    total = job.total_seconds
    progress = f"{100 * job.done_seconds / total:.0f} %" if total and job.state == "running" else ""
    eta = job.eta_seconds()
    state = f"{job.state}: {job.phase}" if job.state == "running" and job.phase else job.state
    code = f" ({job.error['code']})" if job.error and job.state != "done" else ""
    factor = job.real_time_factor
    return (
        job.id,
        state + code,
        encodable(job.job.key),
        clock(total) if total else "",
        progress,
        clock(eta) if eta is not None else "",
        str(job.attempts or ""),
        f"{factor:.3f}" if factor and job.state == "done" else "",
    )


def print_table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = _HEADER) -> None:
    """A table on stdout, as wide as it needs to be."""
    widths = [max(len(one) for one in column) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = [printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True)]
        emit("  ".join(cells).rstrip() + "\n")


def _shown(name: str, value: Any) -> str:  # noqa: ANN401
    if name in {"created", "started", "finished"}:
        return _moment(value)
    if name == "error":
        return f"{value['code']}: {value['message']} ({value['hint']})"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
