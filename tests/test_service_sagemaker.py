"""SageMaker's contract for containers, boto3's client, and users' own inference functions."""

from __future__ import annotations

import asyncio
import json
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from buckets import s3_server
from commands import OPENING, samples
from instant_worker import Instant
from serving import Server, served, wait_until_ready
from sounds import write_wav
from stenopool.decoding.options import Options
from stenopool.errors import NotMedia, StenoError, UsageError
from stenopool.pipeline.database import open_database
from stenopool.service import functions
from stenopool.service.access import Access, Caller
from stenopool.service.functions import Functions
from stenopool.service.inference import InferenceFailed
from stenopool.service.invocation import NotAcceptable, media_of
from stenopool.transcript import Transcript

SECONDS = 12
BEGINNINGS = {
    "application/json": '{\n  "schema": "stenopool.transcript/1"',
    "text/plain": "5 bytes.",
    "text/vtt": "WEBVTT",
    "application/x-subrip": "1\n00:00:00,000",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With instant workers, and everything else that there is."""
    environment = {"STENO_ALLOW_PRIVATE_URLS": "1"}
    with served(tmp_path_factory.mktemp("all"), environment=environment, instant=True) as server:
        yield server


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As SageMaker runs it; there is a key in its database, which nobody has."""
    folder = tmp_path_factory.mktemp("container")
    engine = open_database(f"sqlite:///{folder / 'jobs.sqlite'}")
    Access(engine).create("nobody's")
    engine.dispose()
    anywhere = "0.0.0.0"  # noqa: S104  so does SageMaker
    with served(folder, "--sagemaker", "--host", anywhere, instant=True) as server:
        yield server


def invoke(server: Server, content: bytes | str = b"sound", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{server.url}/invocations", content=content, headers=named, timeout=60)


# --- the container -------------------------------------------------------------------------------


def test_ping_is_well_once_the_model_is_loaded(tmp_path: Path) -> None:
    with served(tmp_path, "--sagemaker", instant=True) as fresh:
        first = httpx.get(f"{fresh.url}/ping")
        assert (first.status_code, first.json()["error"]["code"]) == (503, "not_ready")
        wait_until_ready(fresh)
        assert httpx.get(f"{fresh.url}/ping").content == b""


def test_ping_of_a_model_that_cannot_be_loaded(models_dir: Path, tmp_path: Path) -> None:
    environment = {"STENO_MODELS_DIR": str(models_dir)}
    given = ("--sagemaker", "--model", "large-v3")
    with served(tmp_path, *given, environment=environment) as hopeless:
        until = time.monotonic() + 30
        code = "not_ready"
        while code == "not_ready" and time.monotonic() < until:
            answer = httpx.get(f"{hopeless.url}/ping")
            code = answer.json()["error"]["code"]
            time.sleep(0.1)
        assert (answer.status_code, code) == (503, "model_not_pulled")


def test_ping_is_answered_while_everything_is_busy(container: Server) -> None:
    wait_until_ready(container)
    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(invoke, container, b"x" * (1 << 20)) for _ in range(20)]
        begun = time.monotonic()
        assert httpx.get(f"{container.url}/ping", timeout=2).status_code == 200
        assert time.monotonic() - begun < 2
        assert {one.result().status_code for one in asked} == {200}


def test_container_serves_nothing_else_and_asks_for_no_key(container: Server) -> None:
    headers = {"host": "model.aws.local:8080"}
    for path in ("/v1/models", "/v1/jobs", "/docs", "/redoc", "/openapi.json", "/metrics"):
        assert httpx.get(f"{container.url}{path}", headers=headers).status_code == 404
    for path in ("/v1/audio/transcriptions", "/endpoints/x/async-invocations", "/v1/jobs"):
        assert httpx.post(f"{container.url}{path}", headers=headers).status_code == 404
    assert httpx.get(f"{container.url}/healthz", headers=headers).status_code == 200
    assert invoke(container, host="model.aws.local:8080").status_code == 200


def test_model_in_the_usual_folder_is_served(
    models_dir: Path, speech_wav: Path, tmp_path: Path
) -> None:
    environment = {
        "STENO_MODELS_DIR": str(models_dir),
        "SM_MODEL_DIR": str(models_dir / "tiny.en"),
    }
    speech = write_wav(tmp_path / "a.wav", samples(speech_wav, SECONDS), rate=48_000)
    with served(tmp_path, "--sagemaker", environment=environment) as real:
        wait_until_ready(real)
        answer = invoke(real, speech.read_bytes(), content_type="audio/wav")
        found = Transcript.from_dict(answer.json())
        assert found.text.startswith(OPENING)
        assert found.model.name == "tiny.en"
        again = Transcript.from_dict(invoke(real, speech.read_bytes()).json())
        assert (again.segments, again.coverage) == (found.segments, found.coverage)


# --- what comes in, what goes out ----------------------------------------------------------------


@pytest.mark.parametrize("accept", BEGINNINGS)
@pytest.mark.parametrize("kind", ["audio/wav", "application/octet-stream", "video/mp4", "x", ""])
def test_recording_as_the_body(server: Server, kind: str, accept: str) -> None:
    answer = invoke(server, content_type=kind, accept=accept)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].partition(";")[0] == accept
    assert answer.text.startswith(BEGINNINGS[accept])


@pytest.mark.parametrize("accept", BEGINNINGS)
def test_recording_in_a_form(server: Server, accept: str) -> None:
    answer = httpx.post(
        f"{server.url}/invocations",
        files={"file": ("a.wav", b"sound")},
        data={"language": "de", "beam_size": "2", "word_timestamps": "false"},
        headers={"accept": accept},
    )
    assert answer.text.startswith(BEGINNINGS[accept])
    for said in ("In de.", "beam_size is 2.", "word_timestamps is false."):
        assert said in answer.text


def test_options_in_the_custom_attributes(server: Server) -> None:
    attributes = json.dumps({"language": "de", "initial_prompt": "Grüße"})
    answer = invoke(server, x_amzn_sagemaker_custom_attributes=attributes)
    assert 'In de. initial_prompt is "Gr' in answer.json()["text"]


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ("language=de", "usage"),
        ("[1]", "usage"),
        ("[" * 50_000, "usage"),
        ('{"lanugage": "de"}', "unsupported_option"),
        ('{"language": "klingon"}', "unsupported_option"),
        ('{"beam_size": 1e400}', "usage"),
        ('{"temperatures": {"a": []}}', "usage"),
        ('{"language": {"a": []}}', "unsupported_option"),
        ('{"task": ["translate"]}', "unsupported_option"),
    ],
)
def test_options_that_are_none(server: Server, attributes: str, code: str) -> None:
    answer = invoke(server, x_amzn_sagemaker_custom_attributes=attributes)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_form_that_is_none(server: Server) -> None:
    url = f"{server.url}/invocations"
    for files, data in (
        ({"other": b"x"}, {}),
        ({"file": b"x", "prompt": b"x"}, {}),
        ({"file": b"x"}, {"volume": "11"}),
        ({"file": b"x"}, {"beam_size": "many"}),
    ):
        assert httpx.post(url, files=files, data=data).status_code == 400


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/*", "text/plain"),
        ("text/vtt", "text/vtt"),
        ("text/vtt;q=0.1, text/plain", "text/plain"),
        ("image/png, */*;q=0.1", "application/json"),
        ("APPLICATION/X-SUBRIP; charset=utf-8", "application/x-subrip"),
        ("text/html, text/plain;q=0.5, application/json;q=0.4", "text/plain"),
    ],
)
def test_media_type_that_is_accepted(accept: str, media: str) -> None:
    assert media_of(accept) == media


@pytest.mark.parametrize("accept", ["image/png", "text/html", "*/*;q=0", "text/plain;q=x", "text"])
def test_media_type_that_cannot_be_had(server: Server, accept: str) -> None:
    with pytest.raises(NotAcceptable):
        media_of(accept)
    assert invoke(server, accept=accept).status_code == 406


def test_recording_that_is_none(server: Server) -> None:
    answer = invoke(server, b"!garbage ")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_media")
    assert server.keeps_nothing()


# --- a recording somewhere else ------------------------------------------------------------------


def located(server: Server, **location: Any) -> httpx.Response:
    return invoke(server, json.dumps(location), content_type="application/json")


def test_recording_in_the_bucket(server: Server) -> None:
    path = server.folder / "bucket" / "input" / "a ü.wav"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"sound")
    answer = located(server, s3=path.resolve().as_uri(), options={"language": "de"})
    assert answer.json()["text"] == "5 bytes. In de."
    assert path.exists()


def test_recording_in_a_bucket_of_s3(tmp_path: Path) -> None:
    with s3_server() as store:
        store.put("input/a b.wav", b"sound")
        given = ("--sagemaker", "--bucket", f"{store.url}/input")
        with served(tmp_path, *given, environment=store.environment, instant=True) as near:
            found = located(near, s3=f"{store.url}/input/a b.wav")
            assert found.json()["text"].startswith("5 bytes.")
            missing = located(near, s3=f"{store.url}/input/b.wav")
            assert (missing.status_code, missing.json()["error"]["code"]) == (
                400,
                "input_not_found",
            )
            other = located(near, s3="s3://another/input/a b.wav")
            assert other.status_code == 403
            assert near.keeps_nothing()


def test_only_what_is_in_the_bucket_is_read(server: Server) -> None:
    bucket = (server.folder / "bucket").resolve().as_uri()
    (server.folder / "secret").write_bytes(b"secret")
    (server.folder / "bucket" / ".stenopool").mkdir(exist_ok=True)
    for location in (
        "/etc/passwd",
        "file:///etc/passwd",
        "s3://other/input/a.wav",
        bucket,
        f"{bucket}x/secret",
        f"{bucket}/../secret",
        f"{bucket}/%2e%2e/secret",
        f"{bucket}/input/../../secret",
        f"{bucket}/.stenopool/jobs.sqlite",
        f"{bucket}/",
        f"{bucket}//etc/passwd",
        f"{bucket}/input/\0",
    ):
        answer = located(server, s3=location)
        assert answer.status_code in {400, 403}, location
        assert "passwd:" not in answer.text


@contextmanager
def web(folder: Path) -> Iterator[str]:
    """A web server of these files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()


def test_recording_on_the_web(server: Server, container: Server, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    with web(tmp_path) as url:
        found = located(server, url=f"{url}/a.wav", options={"language": "de"})
        assert found.json()["text"] == "5 bytes. In de."
        assert located(server, url=f"{url}/b.wav").status_code == 400
        inside = located(container, url=f"{url}/a.wav")  # which may not read the internal network
        assert inside.json()["error"]["code"] == "url_refused"
    assert server.keeps_nothing()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "{}",
        '"s3://a/b"',
        '{"s3": "x", "url": "y"}',
        '{"s3": 1}',
        '{"url": "file:///etc/passwd"}',
        '{"url": "http://[::1"}',
        '{"url": "http://a", "verify": false}',
        '{"s3": "x", "options": []}',
        '{"s3": "\\ud800"}',
        "[" * 100_000,
        '{"url": "' + "x" * 5000 + '"}',
    ],
)
def test_json_that_names_nothing(server: Server, content: str) -> None:
    answer = invoke(server, content, content_type="application/json")
    assert answer.status_code in {400, 403}
    assert answer.json()["error"]["message"]


# --- boto3 ---------------------------------------------------------------------------------------


def runtime(server: Server, key: str = "any") -> Any:
    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key="any",  # noqa: S106  none
        config=Config(retries={"total_max_attempts": 1}),
    )


@pytest.mark.parametrize("accept", BEGINNINGS)
def test_boto3_invokes(server: Server, accept: str) -> None:
    answer = runtime(server).invoke_endpoint(
        EndpointName="speech",
        Body=b"sound",
        ContentType="audio/wav",
        Accept=accept,
        CustomAttributes='{"language": "de"}',
    )
    assert answer["ContentType"].partition(";")[0] == accept
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    text = answer["Body"].read().decode()
    assert text.startswith(BEGINNINGS[accept])
    assert "In de." in text


def test_boto3_invokes_with_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"\0" * (5 << 20))
    with (tmp_path / "a.wav").open("rb") as file:
        answer = runtime(server).invoke_endpoint(EndpointName="speech", Body=file)
    assert json.load(answer["Body"])["text"].startswith(f"{5 << 20} bytes.")


@pytest.mark.parametrize(
    ("body", "accept", "code"),
    [
        (b"!garbage ", "text/plain", "ValidationError"),
        (b"sound", "image/png", "ValidationError"),
        (b"!crash ", "text/plain", "ServiceUnavailable"),
        (b"!defect ", "text/plain", "InternalFailure"),
    ],
)
def test_boto3_understands_errors(server: Server, body: bytes, accept: str, code: str) -> None:
    with pytest.raises(ClientError) as error:
        runtime(server).invoke_endpoint(EndpointName="speech", Body=body, Accept=accept)
    assert error.value.response["Error"]["Code"] == code
    assert error.value.response["Error"]["Message"]


def test_boto3_shows_a_key(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    access = Access(engine)
    _, secret = access.create("test", ("transcribe",))
    engine.dispose()
    with served(tmp_path, instant=True) as closed:
        answer = runtime(closed, secret).invoke_endpoint(EndpointName="speech", Body=b"sound")
        assert json.load(answer["Body"])["text"].startswith("5 bytes.")
        with pytest.raises(ClientError) as error:
            runtime(closed, "steno-wrong").invoke_endpoint(EndpointName="speech", Body=b"sound")
        assert error.value.response["Error"]["Code"] == "AccessDeniedException"
        headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
        location = {"s3": f"{(tmp_path / 'bucket').resolve().as_uri()}/input/a.wav"}
        refused = httpx.post(f"{closed.url}/invocations", json=location, headers=headers)
        assert refused.status_code == 403  # the key may not read the bucket
        assert secret not in closed.log


def test_boto3_invokes_for_later(models_dir: Path, speech_wav: Path, tmp_path: Path) -> None:
    environment = {"STENO_MODELS_DIR": str(models_dir)}
    with served(tmp_path, "--model", "tiny.en", environment=environment) as real:
        folder = (tmp_path / "bucket").resolve()
        (folder / "input").mkdir(exist_ok=True)
        write_wav(folder / "input" / "a.wav", samples(speech_wav, SECONDS), rate=48_000)
        (folder / "input" / "b.wav").write_bytes(b"no sound")
        client = runtime(real)
        ends = {}
        for name in ("a.wav", "b.wav"):
            answer = client.invoke_endpoint_async(
                EndpointName="speech",
                InputLocation=f"{folder.as_uri()}/input/{name}",
                Accept="text/plain",
                InferenceId=f"mine-{name}",
            )
            assert answer["InferenceId"] == f"mine-{name}"
            ends[name] = answer
        output = Path(ends["a.wav"]["OutputLocation"].removeprefix("file://"))
        failure = Path(ends["b.wav"]["FailureLocation"].removeprefix("file://"))
        until = time.monotonic() + 60
        while not (output.exists() and failure.exists()):
            assert time.monotonic() < until, real.log
            time.sleep(0.1)
        assert output.read_text(encoding="utf-8").startswith(OPENING)
        assert json.loads(failure.read_bytes())["code"] == "not_media"
        for location in (f"{folder.as_uri()}/output/a.wav.txt", "s3://other/input/a.wav"):
            with pytest.raises(ClientError):
                client.invoke_endpoint_async(EndpointName="speech", InputLocation=location)


# --- users' own functions ------------------------------------------------------------------------

Asks = Callable[[Functions], Awaitable[Any]]
WHO = Caller("somebody")
DATA = {"path": "/x.wav", "options": {"language": "de"}}


def write_program(folder: Path, code: str) -> Path:
    path = folder / "code" / "inference.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


def with_functions(folder: Path, code: str, *asks: Asks, seconds: float = 30.0) -> list[Any]:
    """What comes of questions to the process of such a program; errors are given as they are.

    The model says which path it was asked for, and with which options.
    """

    async def hear(path: Path, options: Mapping[str, Any], who: Caller) -> dict[str, Any]:
        assert who is WHO
        if path.name.startswith("garbage"):
            raise NotMedia("no media", do="Send a recording")
        if path.name.startswith("pause"):
            await asyncio.sleep(0.5)
        said = Instant(folder / "x.wav", Options.of(**options), lambda done, total: None)
        return said.transcript().to_dict()

    async def main() -> list[Any]:
        (folder / "x.wav").write_bytes(b"sound")
        made = Functions(write_program(folder, code), folder, hear, seconds)
        try:
            return [await caught(ask(made)) for ask in asks]
        finally:
            await made.stop()

    async def caught(asked: Awaitable[Any]) -> Any:
        try:
            return await asked
        except StenoError as error:
            return error

    return asyncio.run(main())


def ask(accept: str = "text/plain", **what: object) -> Asks:
    async def asked(made: Functions) -> Any:
        content, media = await made.answer(WHO, accept, **(what or {"data": DATA}))
        return content.decode(), media

    return asked


def test_functions_that_are_not_given_are_ours(tmp_path: Path) -> None:
    found = with_functions(
        tmp_path, "", ask(), ask("text/vtt"), ask("application/json"), ask("image/png")
    )
    assert found[0] == ("5 bytes.\nIn de.\n", "text/plain; charset=utf-8")
    assert found[1][0].startswith("WEBVTT")
    assert Transcript.from_dict(json.loads(found[2][0])).language == "de"
    assert found[3][1] == "application/json"


def test_all_functions_together(tmp_path: Path) -> None:
    code = """
        import json
        from pathlib import Path

        def model_fn(model_dir):
            return {"folder": model_dir}

        def input_fn(body, content_type):
            return {"size": len(body), "type": content_type}

        def predict_fn(data, model):
            print("this goes to the log, and is no answer")
            return {**data, **model}

        def output_fn(prediction, accept):
            return json.dumps({**prediction, "accept": accept}), "application/x-mine"
    """
    body = tmp_path / "body"
    body.write_bytes(b"12345")
    asked = ask("x/y", body=str(body), content_type="a/b")
    ((content, media),) = with_functions(tmp_path, code, asked)
    assert media == "application/x-mine"
    assert json.loads(content) == {
        "size": 5,
        "type": "a/b",
        "folder": str(tmp_path),
        "accept": "x/y",
    }


@pytest.mark.parametrize(
    "given",
    ["'/x.wav'", "Path('/x.wav')", "b'bytes of a recording'", "{'path': '/x.wav', 'options': {}}"],
)
def test_input_that_ours_can_predict(tmp_path: Path, given: str) -> None:
    code = f"""
        from pathlib import Path
        def input_fn(body, content_type):
            return {given}
    """
    body = tmp_path / "body"
    body.write_bytes(b"12345")
    ((text, _),) = with_functions(tmp_path, code, ask(body=str(body), content_type="a/b"))
    assert text.startswith("5 bytes.")


def test_prediction_with_the_model_of_the_server(tmp_path: Path) -> None:
    code = """
        from stenopool import Options
        def predict_fn(data, model):
            first = model.transcribe(data["path"], data["options"])
            second = model.transcribe(data["path"], Options(language="en"))
            return first.text + second.text.upper()
    """
    ((text, media),) = with_functions(tmp_path, code, ask())
    assert (text, media) == ("5 bytes. In de.5 BYTES. IN EN.", "text/plain")


def test_output_of_any_kind(tmp_path: Path) -> None:
    code = """
        def output_fn(prediction, accept):
            if accept == "a/bytes":
                return bytes(range(256))
            if accept == "a/dict":
                return {"text": prediction.text}
            if accept == "a/set":
                return {1, 2}
            return prediction
    """

    async def raw(made: Functions) -> Any:
        return await made.answer(WHO, "a/bytes", data=DATA)

    found = with_functions(tmp_path, code, raw, ask("a/dict"), ask("a/set"), ask("text/plain"))
    assert found[0] == (bytes(range(256)), "a/bytes")
    assert found[1] == ('{"text": "5 bytes. In de."}', "application/json")
    assert isinstance(found[2], UsageError)
    assert found[3][0] == "5 bytes.\nIn de.\n"


def test_own_model_with_our_prediction(tmp_path: Path) -> None:
    code = """
        class Mine:
            def transcribe(self, path, options):
                return f"{path} in {options.language}"
        def model_fn(model_dir):
            return Mine()
    """
    assert with_functions(tmp_path, code, ask()) == [("/x.wav in de", "text/plain")]


def test_modules_beside_the_program_can_be_imported(tmp_path: Path) -> None:
    program = write_program(tmp_path, "")
    program.with_name("beside.py").write_text("NAME = 'beside'")
    code = """
        from beside import NAME
        def predict_fn(data, model):
            return NAME
    """
    assert with_functions(tmp_path, code, ask()) == [("beside", "text/plain")]


def test_error_of_a_function_is_its_own(tmp_path: Path) -> None:
    code = """
        from stenopool.errors import UsageError
        def predict_fn(data, model):
            if data["path"] == "wrong":
                raise UsageError("this will not do", do="Do something else")
            if data["path"] == "bad":
                raise ValueError("bad")
            if data["path"] == "odd":
                raise KeyError
            return model.transcribe(data["path"])
    """
    wrong, bad, odd, garbage, good = with_functions(
        tmp_path,
        code,
        *(ask(data={"path": path}) for path in ("wrong", "bad", "odd", "garbage.wav", "/x.wav")),
    )
    assert (wrong.code, wrong.what) == ("usage", "this will not do")
    assert (bad.code, bad.what) == ("inference_failed", "`predict_fn` raised ValueError: bad")
    assert odd.code == "inference_failed"
    assert garbage.code == "not_media"
    assert good[0].startswith("5 bytes.")


def test_crash_of_a_function_is_survived(tmp_path: Path) -> None:
    code = """
        import ctypes, os, sys
        def predict_fn(data, model):
            if data["path"] == "crash":
                ctypes.string_at(0)
            if data["path"] == "exit":
                os._exit(0)
            return str(os.getpid())
    """
    asks = [ask(data={"path": path}) for path in ("a", "crash", "b", "exit", "c", "d")]
    found = with_functions(tmp_path, code, *asks)
    assert [isinstance(one, InferenceFailed) for one in found] == [False, True] * 2 + [False] * 2
    pids = [one[0] for one in found if isinstance(one, tuple)]
    assert len(set(pids)) == 3
    assert pids[-1] == pids[-2]


def test_function_that_hangs_is_ended(tmp_path: Path) -> None:
    code = """
        import time
        def predict_fn(data, model):
            if data["path"] == "hang":
                time.sleep(600)
            return "well"
    """
    hung, well = with_functions(
        tmp_path, code, ask(data={"path": "hang"}), ask(data={"path": "a"}), seconds=3.0
    )
    assert isinstance(hung, InferenceFailed)
    assert "within 3 s" in hung.what
    assert well == ("well", "text/plain")


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import no_such_module", "ModuleNotFoundError"),
        ("def", "SyntaxError"),
        ("raise SystemExit(3)", "ended with status 3"),
        ("import os; os.abort()", "ended with status -6"),
        ("predict_fn = 1", "`predict_fn` is no function"),
        ("def model_fn(model_dir): raise ValueError('no model')", "`model_fn` raised ValueError"),
    ],
)
def test_program_that_cannot_be_loaded(tmp_path: Path, code: str, what: str) -> None:
    first, second = with_functions(tmp_path, code, ask(), ask())
    assert isinstance(first, InferenceFailed)
    assert what in first.what
    assert second.what == first.what


def test_others_go_on_while_the_server_transcribes(tmp_path: Path) -> None:
    code = """
        import threading
        running = 0
        def predict_fn(data, model):
            global running
            running += 1
            assert running == 1, "two at a time"
            running -= 1
            found = model.transcribe(data["path"])
            running += 1
            assert running == 1, "two at a time"
            running -= 1
            return found
    """

    async def many(made: Functions) -> list[Any]:
        await made.given()
        begun = time.monotonic()
        one = ask(data={"path": "pause.wav"})
        found = await asyncio.gather(*(one(made) for _ in range(20)))
        assert time.monotonic() - begun < 5  # in turn it would be ten
        return found

    (found,) = with_functions(tmp_path, code, many)
    assert len(found) == 20
    assert {text for text, _ in found} == {"5 bytes.\nIn auto.\n"}


def test_whoever_goes_is_forgotten(tmp_path: Path) -> None:
    async def left(made: Functions) -> bool:
        await made.given()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await made.answer(WHO, "text/plain", data={"path": "pause.wav"})
        await asyncio.sleep(1)
        return True

    gone, well = with_functions(tmp_path, "", left, ask())
    assert gone is True
    assert well[0].startswith("5 bytes.")


def test_program_is_found_where_sagemaker_puts_it(tmp_path: Path) -> None:
    environment = {"SM_MODEL_DIR": str(tmp_path)}
    assert functions.program(environment) is None
    path = write_program(tmp_path, "")
    assert functions.program(environment) == path
    in_s3 = {**environment, "SAGEMAKER_SUBMIT_DIRECTORY": "s3://bucket/sourcedir.tar.gz"}
    assert functions.program(in_s3) == path
    other = tmp_path / "mine.py"
    other.touch()
    named = {"SAGEMAKER_SUBMIT_DIRECTORY": str(tmp_path), "SAGEMAKER_PROGRAM": "mine.py"}
    assert functions.program(named) == other
    with pytest.raises(UsageError, match=r"no\.py"):
        functions.program({**named, "SAGEMAKER_PROGRAM": "no.py"})
    assert functions.model_dir({}) == Path("/opt/ml/model")


def test_longest_time_is_that_of_sagemaker() -> None:
    name = "SAGEMAKER_MODEL_SERVER_TIMEOUT"
    assert functions.longest_seconds({}) == 3600
    assert functions.longest_seconds({name: "60"}) == 60
    for wrong in ("0", "-1", "a while"):
        with pytest.raises(UsageError, match=name):
            functions.longest_seconds({name: wrong})


def test_server_with_functions(tmp_path: Path) -> None:
    code = """
        import ctypes
        def output_fn(prediction, accept):
            if prediction.text.startswith("6"):
                ctypes.string_at(0)
            return f"{accept}: {prediction.text}"
    """
    write_program(tmp_path, code)
    environment = {"SM_MODEL_DIR": str(tmp_path)}
    with served(tmp_path, environment=environment, instant=True) as mine:
        wait_until_ready(mine)
        answer = invoke(mine, accept="a/b")
        assert (answer.text, answer.headers["content-type"]) == ("a/b: 5 bytes. In auto.", "a/b")
        crash = invoke(mine, b"a sound"[:6])
        assert (crash.status_code, crash.json()["error"]["code"]) == (500, "inference_failed")
        assert invoke(mine, accept="text/plain").text.startswith("text/plain: 5 bytes.")
        assert httpx.get(f"{mine.url}/ping").status_code == 200
        with pytest.raises(ClientError) as error:
            runtime(mine).invoke_endpoint(EndpointName="speech", Body=b"sounds")
        assert error.value.response["Error"]["Code"] == "ModelError"
        with pytest.raises(ClientError, match=r"inference\.py"):
            runtime(mine).invoke_endpoint_async(EndpointName="speech", InputLocation="s3://a/b")
        assert mine.keeps_nothing()
        children = psutil.Process(mine.process.pid).children(recursive=True)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
