"""`steno serve` and `steno keys`: endpoints for programs, and who may use them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stenopool.cli.console import emit, emit_json, say
from stenopool.cli.jobs import AsJson, print_table
from stenopool.cli.options import DeviceName, EngineName, ModelName, Threads, default_model
from stenopool.cli.run import Database, JsonLogs, WorkerCount, limits, model_name, open_jobs
from stenopool.errors import EngineMissing, UsageError

if TYPE_CHECKING:
    from stenopool.bucket import Bucket
    from stenopool.service.access import Access

WS_PING_SECONDS = 180.0  # a model may be loading, or a client ahead: nothing is read meanwhile
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

keys = typer.Typer(help="API keys of `steno serve`.", no_args_is_help=True)

ServedBucket = Annotated[
    str, typer.Option("--bucket", help="Where recordings of jobs are put; else a folder of yours.")
]


def serve(
    *,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535)] = 8000,
    bucket: ServedBucket = "",
    database: Database = "",
    workers: WorkerCount = 1,
    model: ModelName,
    engine: EngineName = "auto",
    device: DeviceName = "auto",
    threads: Threads = 0,
    most_megabytes: Annotated[
        int, typer.Option("--max-upload-mb", min=1, help="Of one upload.")
    ] = 4096,
    waiting: Annotated[
        int, typer.Option("--max-waiting", min=0, help="Requests that may wait; more get 429.")
    ] = 200,
    origin: Annotated[
        list[str] | None, typer.Option("--cors-origin", help="Repeatable; pages that may call.")
    ] = None,
    sagemaker: Annotated[
        bool,
        typer.Option("--sagemaker", help="In SageMaker: only /ping and /invocations, no keys."),
    ] = False,
    log_json: JsonLogs = False,
) -> None:
    """Serve OpenAI-compatible endpoints.

    Without any key (`steno keys create`) it answers to this machine only.
    """
    try:
        import uvicorn

        from stenopool.service.app import Serving, create_app
        from stenopool.service.wire import BoundedHttp, Server
    except ImportError as error:
        raise EngineMissing(
            f"the server's packages are not installed: {error.name}",
            do="Run `pip install 'stenopool[serve]'`",
        ) from error
    from stenopool.pipeline.events import show_events
    from stenopool.pipeline.job import Group
    from stenopool.pipeline.schedule import Schedules
    from stenopool.service.access import Access

    opened = _bucket(bucket)
    jobs, url = open_jobs(database, opened.url)
    if host not in LOOPBACK and not sagemaker and Access(jobs.engine).is_open():
        raise UsageError(
            f"without keys the server must not listen on `{host}`",
            do="Make one with `steno keys create`, or listen on 127.0.0.1",
        )
    if log_json:
        show_events()
    most = limits(workers, threads, device=device)
    app = create_app(
        Serving(
            jobs,
            url,
            Group(_model(model, sagemaker=sagemaker), engine, device),
            opened,
            replace(most, idle_seconds=inf) if sagemaker else most,
            most_bytes=most_megabytes << 20,
            waiting=waiting,
            origins=tuple(origin or ()),
            sagemaker=sagemaker,
            duties=[Schedules(jobs).tick],
        )
    )
    say(f"serving on http://{host}:{port}, documentation on /docs")
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=BoundedHttp,
        log_config=None,
        ws_ping_timeout=WS_PING_SECONDS,
        timeout_graceful_shutdown=60,
    )
    server = Server(config, app)
    with suppress(KeyboardInterrupt, SystemExit):  # of uvicorn: it has said why
        server.run()
    if not server.started:
        raise UsageError(f"cannot serve on `{host}:{port}`", do="Choose another `--port`")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="Repeatable: transcribe, jobs, realtime, metrics; else all."),
    ] = None,
    per_minute: Annotated[
        int, typer.Option("--requests-per-minute", min=0, help="0 is without limit.")
    ] = 0,
    audio_minutes: Annotated[
        float, typer.Option("--audio-minutes-per-day", min=0, help="0 is without limit.")
    ] = 0.0,
    bucket: ServedBucket = "",
    database: Database = "",
) -> None:
    """Make a key and print it: nobody can see it again."""
    from stenopool.service.access import SCOPES

    scopes = tuple(scope or SCOPES)
    made, secret = _access(database, bucket).create(name, scopes, per_minute, audio_minutes)
    say(f"id: {made.id}, scopes: {', '.join(made.scopes)}")
    emit(f"{secret}\n")


@keys.command("list")
def list_keys(bucket: ServedBucket = "", database: Database = "", as_json: AsJson = False) -> None:
    """All keys, without their secrets."""
    rows = []
    for one in _access(database, bucket).all():
        if as_json:
            emit_json(
                {
                    "id": one.id,
                    "name": one.name,
                    "scopes": one.scopes,
                    "requests_per_minute": one.requests_per_minute,
                    "audio_minutes_per_day": one.audio_minutes_per_day,
                    "created": one.created,
                    "revoked": one.revoked,
                }
            )
        made = datetime.fromtimestamp(one.created).astimezone().strftime("%Y-%m-%d %H:%M")
        state = "revoked" if one.revoked else "valid"
        rows.append((one.id, one.name, state, made, ", ".join(one.scopes)))
    if not as_json:
        print_table(rows, ("id", "name", "state", "created", "scopes"))


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key.")],
    bucket: ServedBucket = "",
    database: Database = "",
) -> None:
    """Let a key open nothing any more."""
    _access(database, bucket).revoke(key)
    say(f"revoked: {key}")


def _model(name: str, *, sagemaker: bool) -> str:
    """The model to serve: in SageMaker the one in its folder, if there is one."""
    from stenopool.service.functions import model_dir

    folder = model_dir()
    if sagemaker and name == default_model() and (folder / "config.json").is_file():
        return str(folder)
    return model_name(name)


def _access(database: str, bucket: str) -> Access:
    from stenopool.service.access import Access

    return Access(open_jobs(database, _bucket(bucket).url)[0].engine)


def _bucket(url: str) -> Bucket:
    from platformdirs import user_data_path

    from stenopool.bucket import open_bucket

    if url:
        return open_bucket(url)
    folder: Path = user_data_path("stenopool") / "bucket"
    folder.mkdir(parents=True, exist_ok=True)
    return open_bucket(str(folder))
