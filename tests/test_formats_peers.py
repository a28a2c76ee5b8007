"""Models in other projects' formats, opened by those projects; each is skipped where it is missing.

All of them decode greedily, so that equal weights give equal texts; Transformers with PyTorch is
what they are held against. Each hears 20 clips; `STENO_TEST_CLIPS` may name a manifest of others.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import jiwer
import numpy as np
import pytest

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.media import Recording
from stenopool.data import read
from stenopool.evaluation.normalise import normaliser
from stenopool.models import LocalModel, Store
from stenopool.models.export import export

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("peer_transcripts.py")
NODE_SCRIPT = Path(__file__).with_name("transformers_js.mjs")
NODE_VERSION = "4.3.1"
NODE_PACKAGES = Path(__file__).parent.parent / ".cache" / f"node-transformers-{NODE_VERSION}"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
CLIPS = 20
SHORTEST, LONGEST = 4.0, 10.0  # seconds of a clip
MOST_WORSE = 0.005  # of the words, for weights of fewer bits
FLOATS = ("float16", "float32")

# Where the reader of `speech_wav` pauses, in seconds, and what he reads before.
PHRASES = (
    (1.0, ""),
    (4.8, "it was the best of times it was the worst of times"),
    (6.48, "it was the age of wisdom"),
    (8.5, "it was the age of foolishness"),
    (10.55, "it was the epoch of belief"),
    (13.1, "it was the epoch of incredulity"),
    (14.97, "it was the season of light"),
    (17.1, "it was the season of darkness"),
    (18.85, "it was the spring of hope"),
    (20.9, "it was the winter of despair"),
    (24.3, "we had everything before us we had nothing before us"),
    (26.3, "we were all going direct to heaven"),
    (28.7, "we were all going direct the other way"),
    (32.55, "in short the period was so far like the present period"),
    (
        42.5,
        "that some of its noisiest authorities insisted on its being received for good or for evil "
        "in the superlative degree of comparison only",
    ),
)

Exported = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def model(models_dir: Path) -> LocalModel:
    return Store(models_dir).resolve("tiny.en")


@dataclass(frozen=True)
class Clip:
    """A file of float32 at 16 kHz, and what is said in it."""

    file: Path
    said: str


@pytest.fixture(scope="module")
def clips(speech_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    folder = tmp_path_factory.mktemp("clips")
    given = os.environ.get("STENO_TEST_CLIPS")
    return written(spread(list(from_manifest(given) if given else cut(speech_wav))), folder)


def spread(found: Sequence[tuple[Samples, str]]) -> Sequence[tuple[Samples, str]]:
    """So many, from the first to the last."""
    return [found[number * len(found) // CLIPS] for number in range(CLIPS)]


def written(found: Sequence[tuple[Samples, str]], folder: Path) -> list[Clip]:
    made = [Clip(folder / f"{number}.f32", said) for number, (_, said) in enumerate(found)]
    for clip, (sound, _) in zip(made, found, strict=True):
        sound.tofile(clip.file)
    return made


def cut(speech: Path) -> Iterator[tuple[Samples, str]]:
    """Every run of whole phrases that is as long as a clip may be."""
    whole = samples(speech)
    for first, last in combinations(range(len(PHRASES)), 2):
        start, end = PHRASES[first][0], PHRASES[last][0]
        if SHORTEST <= end - start <= LONGEST:
            said = " ".join(text for _, text in PHRASES[first + 1 : last + 1])
            yield whole[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)], said


def from_manifest(source: str) -> Iterator[tuple[Samples, str]]:
    return ((samples(one.audio), one.text or "") for one in read(source))


def samples(path: Path) -> Samples:
    with Recording(path) as recording:
        return np.concatenate(list(recording))


@pytest.fixture(scope="module")
def exported(model: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Writes a model in a format once."""
    root = tmp_path_factory.mktemp("exported")

    def written(to: str, precision: str) -> Path:
        folder = root / f"{to}-{precision}"
        if not folder.exists():
            export(model, to, folder, precision)
        return folder

    return written


@pytest.fixture(scope="module")
def reference(exported: Exported, clips: Sequence[Clip]) -> list[str]:
    """What Transformers hears."""
    needed("transformers", "torch")
    return heard("transformers", exported("transformers", "float32"), clips)


def needed(*packages: str) -> None:
    for name in packages:
        if find_spec(name) is None:
            pytest.skip(f"`{name}` is not installed")


def heard(peer: str, model: Path, clips: Sequence[Clip], **environment: str) -> list[str]:
    command = [sys.executable, str(SCRIPT), peer, str(model), *(str(one.file) for one in clips)]
    return answered(command, **environment)


def answered(command: Sequence[str], **environment: str) -> list[str]:
    done = subprocess.run(
        command,
        env={**os.environ, **OFFLINE, **environment},
        capture_output=True,
        check=False,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    texts: list[str] = json.loads(done.stdout.splitlines()[-1])
    return texts


def word_errors(texts: Sequence[str], clips: Sequence[Clip]) -> float:
    """A fraction of the words that are said."""
    plain = normaliser("en")
    return float(jiwer.wer([plain(one.said) for one in clips], list(map(plain, texts))))


def assert_as_good(
    texts: Sequence[str], reference: Sequence[str], clips: Sequence[Clip], *, equal: bool
) -> None:
    """Equal weights give equal texts, rounded ones texts that are hardly worse."""
    if equal:
        assert list(texts) == list(reference)
    worse = word_errors(texts, clips) - word_errors(reference, clips)
    alike = sum(one == other for one, other in zip(texts, reference, strict=True))
    print(f"{alike} of {len(texts)} texts are equal, {100 * worse:+.2f} points")  # noqa: T201  for `pytest -rP`
    assert worse <= MOST_WORSE, (texts, reference)


def test_reference_is_what_was_said(reference: list[str], clips: Sequence[Clip]) -> None:
    assert len(reference) == CLIPS
    assert word_errors(reference, clips) < 0.1, reference


PEERS = [
    ("transformers", "transformers", "float16", ""),
    ("faster_whisper", "ctranslate2", "float16", ""),
    ("faster_whisper", "ctranslate2", "float32", ""),
    ("faster_whisper", "ctranslate2", "int8", ""),
    ("whisper", "openai", "float16", "model.pt"),
    ("whisper", "openai", "float32", "model.pt"),
    ("pywhispercpp", "ggml", "float16", "ggml-model.bin"),
    ("pywhispercpp", "ggml", "q8_0", "ggml-model.bin"),
    ("pywhispercpp", "ggml", "q5_0", "ggml-model.bin"),
    ("onnxruntime", "onnx", "float32", ""),
    ("onnxruntime", "onnx", "int8", ""),
    ("openvino_genai", "openvino", "float16", ""),
    ("openvino_genai", "openvino", "float32", ""),
    ("openvino_genai", "openvino", "int8", ""),
]


@pytest.mark.parametrize(("peer", "to", "precision", "file"), PEERS)
def test_peer_hears_the_same(
    peer: str,
    to: str,
    precision: str,
    file: str,
    model: LocalModel,
    exported: Exported,
    clips: Sequence[Clip],
    reference: list[str],
) -> None:
    need(peer, to)
    suffix = "_quantized" if (to, precision) == ("onnx", "int8") else ""
    texts = heard(peer, exported(to, precision) / file, clips, STENO_ONNX_SUFFIX=suffix)
    # faster-whisper pads features and not sound, so it may write other words with any weights: it
    # is held against itself, with the files that the model was published as.
    wanted = heard(peer, model.folder, clips) if peer == "faster_whisper" else reference
    assert_as_good(texts, wanted, clips, equal=precision in FLOATS)


def need(peer: str, to: str) -> None:
    needed(peer)
    if to in ("onnx", "openvino"):
        needed("onnx")
    if to == "openvino":
        needed("openvino_tokenizers", "transformers")


@pytest.fixture(scope="module")
def packages() -> Path:
    """Transformers.js, fetched once."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    if not (NODE_PACKAGES / "node_modules" / "@huggingface").is_dir():
        NODE_PACKAGES.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--prefix", str(NODE_PACKAGES), "--no-audit", "--no-fund"]
        wanted = f"@huggingface/transformers@{NODE_VERSION}"
        # Its runtime would fetch libraries for NVIDIA's GPUs as well.
        environment = {**os.environ, "ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"}
        subprocess.run([*install, wanted], check=True, capture_output=True, env=environment)
    return NODE_PACKAGES


@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_transformers_js_hears_the_same(
    dtype: str,
    packages: Path,
    exported: Exported,
    clips: Sequence[Clip],
    reference: list[str],
) -> None:
    needed("onnx")
    files = (str(one.file) for one in clips)
    command = ["node", str(NODE_SCRIPT), str(packages), str(exported("onnx", "all")), dtype, *files]
    assert_as_good(answered(command), reference, clips, equal=dtype == "fp32")
