"""OpenAI's endpoints, as the official client for Node sees them; from npm, so it is slow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from commands import OPENING, samples
from serving import Server, served
from sounds import write_wav
from stenopool.service.answers import Format

VERSION = "6.49.0"
PACKAGES = Path(__file__).parent.parent / ".cache" / f"node-openai-{VERSION}"
SCRIPT = Path(__file__).with_name("openai_client.cjs")
SECONDS = 20

pytestmark = pytest.mark.slow


class Node:
    """Asks a server with OpenAI's client for Node."""

    def __init__(self, server: Server, speech: Path) -> None:
        self._server = server
        self._speech = speech

    def __call__(self, what: str, file: Path | None = None, **options: Any) -> Any:
        said = self._said(what, file, options)
        assert "error" not in said, said
        return said["answer"]

    def error(self, what: str, file: Path | None = None, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._said(what, file, options)["error"]
        return found

    def _said(self, what: str, file: Path | None, options: dict[str, Any]) -> dict[str, Any]:
        request = {"what": what, "file": str(file or self._speech), "options": options}
        done = subprocess.run(
            ["node", str(SCRIPT), f"{self._server.url}/v1", json.dumps(request)],
            env={**os.environ, "NODE_PATH": str(PACKAGES / "node_modules")},
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr.decode()
        said: dict[str, Any] = json.loads(done.stdout)
        return said


@pytest.fixture(scope="module")
def packages() -> None:
    """The client, fetched once."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    if not (PACKAGES / "node_modules" / "openai").is_dir():
        PACKAGES.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--prefix", str(PACKAGES), "--no-audit", "--no-fund"]
        subprocess.run([*install, f"openai@{VERSION}"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def node(
    packages: None, models_dir: Path, speech_wav: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("served")
    speech = write_wav(folder / "speech.wav", samples(speech_wav, SECONDS), rate=48_000)
    environment = {"STENO_MODELS_DIR": str(models_dir)}
    with served(folder, "--model", "tiny.en", environment=environment) as server:
        yield Node(server, speech)


@pytest.fixture(scope="module")
def told(packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Whose text tells the options that its worker was given."""
    folder = tmp_path_factory.mktemp("instant")
    (folder / "x").write_bytes(b"x")
    with served(folder, instant=True) as server:
        yield Node(server, folder / "x")


def test_json(node: Node) -> None:
    answer = node("transcriptions", model="whisper-1")
    assert answer["text"].startswith(OPENING)
    assert answer["usage"] == {"type": "duration", "seconds": SECONDS}


@pytest.mark.parametrize(
    ("format", "beginning"), [("text", OPENING), ("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n\n00:0")]
)
def test_texts(node: Node, format: str, beginning: str) -> None:
    assert node("transcriptions", model="whisper-1", response_format=format).startswith(beginning)


def test_verbose_json_with_words_and_segments(node: Node) -> None:
    answer = node(
        "transcriptions",
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert (answer["language"], round(answer["duration"])) == ("english", SECONDS)
    assert [one["word"] for one in answer["words"][:3]] == ["It", "was", "the"]
    assert " ".join(one["text"] for one in answer["segments"]) == answer["text"]


def test_logprobs(node: Node) -> None:
    answer = node("transcriptions", model="whisper-1", include=["logprobs"])
    assert "".join(one["token"] for one in answer["logprobs"]).strip() == answer["text"]


def test_stream(node: Node) -> None:
    *deltas, done = node("transcriptions", model="whisper-1", stream=True)
    assert {one["type"] for one in deltas} == {"transcript.text.delta"}
    assert done["type"] == "transcript.text.done"
    assert "".join(one["delta"] for one in deltas) == done["text"]
    assert done["text"].startswith(OPENING)


def test_options_are_taken(told: Node) -> None:
    text = told(
        "transcriptions", model="whisper-1", language="de", prompt="Hello", temperature=0.5
    )["text"]
    for said in ("In de.", 'initial_prompt is "Hello".', "temperatures is [0.5]."):
        assert said in text


def test_options_of_newer_models_are_taken(told: Node) -> None:
    text = told(
        "transcriptions",
        model="gpt-transcribe",
        keywords=["Stenopool", "Whisper"],
        chunking_strategy={"type": "server_vad", "threshold": 0.3},
    )["text"]
    assert 'hotwords is "Stenopool, Whisper".' in text
    assert "vad_threshold is 0.3." in text


@pytest.mark.parametrize("format", get_args(Format))
def test_translations(told: Node, format: str) -> None:
    answer = told("translations", model="whisper-1", response_format=format)
    text = answer["text"] if format.endswith("json") else answer
    assert 'task is "translate".' in text


def test_models(told: Node) -> None:
    assert {"whisper-1", "base"} <= set(told("models"))
    assert told("model", model="base")["id"] == "base"


def test_errors_are_those_of_the_client(node: Node, told: Node, tmp_path: Path) -> None:
    garbage = tmp_path / "a.mp3"
    garbage.write_bytes(b"no sound")
    assert node.error("transcriptions", garbage, model="whisper-1") == {
        "kind": "BadRequestError",
        "status": 400,
        "code": "not_media",
    }
    assert told.error("transcriptions", model="no-such")["kind"] == "NotFoundError"
    assert told.error("model", model="no-such")["kind"] == "NotFoundError"
    assert told.error("transcriptions", model="whisper-1", temperature=2)["status"] == 400
