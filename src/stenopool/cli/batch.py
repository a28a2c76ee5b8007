"""`steno batch`: what is in `input/` now, as N lists, at once or by the clock."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenopool.cli.console import clock, emit, emit_json, printable, say
from stenopool.cli.jobs import AsJson, BucketOfDatabase, print_table
from stenopool.cli.options import DeviceName, EngineName, ModelName, Quiet, Threads, with_options
from stenopool.cli.run import (
    FORMATS,
    BucketUrl,
    Database,
    JsonLogs,
    WorkerCount,
    check_request,
    limits,
    model_name,
    open_jobs,
    supervise,
)
from stenopool.decoding.options import Options
from stenopool.errors import UsageError

if TYPE_CHECKING:
    from stenopool.pipeline.batch import Batch
    from stenopool.pipeline.jobs import Jobs

app = typer.Typer(help="Part what is in `input/` among N children.", no_args_is_help=True)

BatchName = Annotated[str, typer.Argument(help="Id of the batch.")]
ScheduleName = Annotated[str, typer.Argument(help="Name of the schedule.")]


@app.command("submit")
@with_options
def submit_batch(
    *,
    bucket: BucketUrl,
    children: Annotated[int, typer.Option("--children", min=1, max=99_999, help="Lists at most.")],
    database: Database = "",
    schedule: Annotated[
        str, typer.Option("--schedule", help="Cron expression: not now, but at these moments.")
    ] = "",
    timezone: Annotated[str, typer.Option("--timezone", help="Of the cron expression.")] = "UTC",
    name: Annotated[str, typer.Option("--name", help="Of the schedule.")] = "",
    outside: Annotated[
        bool,
        typer.Option("--outside", help="The children are run by `steno batch child`, elsewhere."),
    ] = False,
    model: ModelName,
    engine: EngineName = "auto",
    device: DeviceName = "auto",
    format: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", help="Repeatable; txt, srt, vtt and json by default."),
    ] = None,
    as_json: AsJson = False,
    options: Options,
) -> None:
    """Part what is in `input/` now into lists of equal length, longest recordings first.

    With nothing to do it ends at once. Workers (`steno worker`) do the jobs.
    """
    from stenopool.bucket import open_bucket
    from stenopool.pipeline.batch import submit
    from stenopool.pipeline.job import Group
    from stenopool.pipeline.watch import Defaults

    if bool(schedule) != bool(name):
        raise UsageError("a schedule needs a name", do="Give `--schedule` and `--name`, or neither")
    if schedule and outside:
        raise UsageError(
            "what runs the children has a clock of its own",
            do="Let it run `steno batch submit --outside` without `--schedule`",
        )
    group = Group(model_name(model), engine, device)
    check_request(group.model, options)
    opened = open_bucket(bucket)
    opened.prepare()
    jobs, _ = open_jobs(database, opened.url)
    defaults = Defaults.of(group, format or FORMATS, options)
    if schedule:
        _schedule(jobs, name, schedule, timezone, opened.url, children, defaults)
        return
    batch = submit(jobs, opened, defaults, children, outside=outside)
    if as_json:
        emit_json(_data(jobs, batch) if batch else {"id": None, "children": []})
    elif batch is None:
        say("nothing to do")
    else:
        total = sum(child.seconds for child in batch.children)
        count = sum(child.recordings for child in batch.children)
        say(f"{count} recordings, {clock(total)} of audio, {len(batch.children)} children")
        emit(f"{batch.id}\n")


@app.command("child")
def run_child(
    batch: Annotated[str, typer.Option("--batch", help="Id of the batch.")],
    bucket: BucketUrl,
    index: Annotated[
        int, typer.Option("--index", help="Which child; else the array job's environment says it.")
    ] = -1,
    database: Database = "",
    workers: WorkerCount = 1,
    threads: Threads = 0,
    json_lines: AsJson = False,
    log_json: JsonLogs = False,
    quiet: Quiet = False,
) -> None:
    """Do one list of a batch that was submitted with `--outside`, then exit.

    The index may come from `AWS_BATCH_JOB_ARRAY_INDEX`, `JOB_COMPLETION_INDEX` or
    `SLURM_ARRAY_TASK_ID`. With nothing to do it ends at once with status 0 and loads nothing.
    """
    from stenopool.bucket import open_bucket
    from stenopool.pipeline.batch import child_index, child_jobs, finish_child

    number = index if index >= 0 else child_index()
    opened = open_bucket(bucket)
    found = child_jobs(opened, batch, number)
    if not found:
        say("nothing to do")
        return
    jobs, url = open_jobs(database, opened.url)
    jobs.submit(found)
    reserved = f"{batch}.{number}"
    status = supervise(
        jobs,
        url,
        limits(workers, threads, reserved=reserved),
        once=True,
        json_lines=json_lines,
        log_json=log_json,
        quiet=quiet,
        bucket=opened,
        batch=reserved,
    )
    if not jobs.has_active(opened.url, reserved):
        finish_child(opened, batch, number)
    if status:
        raise typer.Exit(status)


@app.command()
def status(
    batch: BatchName,
    database: Database = "",
    bucket: BucketOfDatabase = "",
    as_json: AsJson = False,
) -> None:
    """How far each child of a batch has come, and all of them together."""
    from stenopool.pipeline.batch import find

    jobs = _jobs(database, bucket)
    data = _data(jobs, find(jobs, batch))
    if as_json:
        emit_json(data)
        return
    rows = [_child_row(str(one["child"]), one) for one in data["children"]]
    print_table([*rows, _child_row("all", data["total"])], _CHILD_HEADER)


@app.command("list")
def list_batches(
    database: Database = "", bucket: BucketOfDatabase = "", as_json: AsJson = False
) -> None:
    """All batches, the newest first."""
    from stenopool.pipeline.batch import all_batches

    jobs = _jobs(database, bucket)
    for batch in all_batches(jobs):
        data = _data(jobs, batch)
        if as_json:
            emit_json(data)
        else:
            total = data["total"]
            states = ", ".join(f"{count} {name}" for name, count in total["states"].items())
            line = f"{batch.id}  {_moment(batch.created)}  {batch.schedule or '-'}  {states}"
            emit(printable(line) + "\n")


@app.command()
def cancel(batch: BatchName, database: Database = "", bucket: BucketOfDatabase = "") -> None:
    """Stop what has not ended of a batch."""
    from stenopool.pipeline.batch import cancel as cancelled
    from stenopool.pipeline.batch import find

    jobs = _jobs(database, bucket)
    say(f"cancelled: {cancelled(jobs, find(jobs, batch))} jobs")


@app.command()
def schedules(
    database: Database = "", bucket: BucketOfDatabase = "", as_json: AsJson = False
) -> None:
    """All schedules, and when they run next."""
    import time

    from stenopool.pipeline.schedule import Schedules

    rows = []
    for one in Schedules(_jobs(database, bucket)).all():
        following = one.following(time.time())
        if as_json:
            emit_json(
                {
                    "name": one.name,
                    "cron": one.cron,
                    "timezone": one.timezone,
                    "paused": one.paused,
                    "next": None if one.paused else following,
                    **one.request,
                }
            )
        state = "paused" if one.paused else _moment(following)
        rows.append((one.name, one.cron, one.timezone, state, str(one.request["bucket"])))
    if not as_json:
        print_table(rows, ("name", "cron", "time zone", "next", "bucket"))


@app.command()
def pause(name: ScheduleName, database: Database = "", bucket: BucketOfDatabase = "") -> None:
    """Let a schedule rest."""
    _pause(name, database, bucket, paused=True)


@app.command()
def resume(name: ScheduleName, database: Database = "", bucket: BucketOfDatabase = "") -> None:
    """Let a schedule go on at its next moment."""
    _pause(name, database, bucket, paused=False)


@app.command()
def trigger(name: ScheduleName, database: Database = "", bucket: BucketOfDatabase = "") -> None:
    """Run a schedule now, besides its moments."""
    from stenopool.pipeline.schedule import Schedules

    batch = Schedules(_jobs(database, bucket)).trigger(name)
    if batch is None:
        say("nothing to do")
    else:
        emit(f"{batch.id}\n")


@app.command()
def unschedule(name: ScheduleName, database: Database = "", bucket: BucketOfDatabase = "") -> None:
    """Forget a schedule; its batches stay."""
    from stenopool.pipeline.schedule import Schedules

    Schedules(_jobs(database, bucket)).delete(name)
    say(f"deleted: {name}")


def _schedule(
    jobs: Jobs,
    name: str,
    cron: str,
    timezone: str,
    bucket: str,
    children: int,
    defaults: object,
) -> None:
    import time

    from stenopool.pipeline.schedule import Schedules
    from stenopool.pipeline.watch import Defaults

    given = defaults.to_dict() if isinstance(defaults, Defaults) else {}
    request = {"bucket": bucket, "children": children, "defaults": given}
    made = Schedules(jobs).set(name, cron, timezone, request)
    say(f"scheduled: {name}, next at {_moment(made.following(time.time()))}")


def _pause(name: str, database: str, bucket: str, *, paused: bool) -> None:
    from stenopool.pipeline.schedule import Schedules

    Schedules(_jobs(database, bucket)).pause(name, paused=paused)
    say(f"{'paused' if paused else 'goes on'}: {name}")


def _jobs(database: str, bucket: str) -> Jobs:
    from stenopool.bucket import open_bucket

    return open_jobs(database, open_bucket(bucket).url if bucket else "")[0]


_CHILD_HEADER = ("child", "recordings", "audio", "done", "failed", "active", "compute")


def _data(jobs: Jobs, batch: Batch) -> dict[str, Any]:
    from collections import Counter

    from stenopool.pipeline.batch import progress

    children, total, compute = [], Counter[str](), 0.0
    for index, (child, far) in enumerate(zip(batch.children, progress(jobs, batch), strict=True)):
        total.update(far.states)
        compute += far.compute_seconds
        children.append(
            {
                "child": index,
                "recordings": child.recordings,
                "seconds": child.seconds,
                "states": dict(far.states),
                "compute_seconds": far.compute_seconds,
            }
        )
    return {
        "id": batch.id,
        "bucket": batch.bucket,
        "schedule": batch.schedule,
        "created": batch.created,
        "children": children,
        "total": {
            "recordings": sum(child.recordings for child in batch.children),
            "seconds": sum(child.seconds for child in batch.children),
            "states": dict(total),
            "compute_seconds": compute,
        },
    }


def _child_row(name: str, data: dict[str, Any]) -> tuple[str, ...]:
    states = data["states"]
    active = states.get("waiting", 0) + states.get("running", 0)
    return (
        name,
        str(data["recordings"]),
        clock(data["seconds"]),
        str(states.get("done", 0)),
        str(states.get("failed", 0)),
        str(active),
        f"{data['compute_seconds']:.1f} s",
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
