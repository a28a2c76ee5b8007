"""Models in other projects' formats, opened by those projects; each is skipped where it is missing.

All of them decode greedily, so that equal weights give equal texts; Transformers with PyTorch is
what they are held against. `STENO_TEST_CLIPS` may name a folder of recordings of less than 30 s.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import jiwer
import numpy as np
import pytest

from stenopool.audio.media import Recording
from stenopool.models import LocalModel, Store
from stenopool.models.export import export

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("peer_transcripts.py")
NODE_SCRIPT = Path(__file__).with_name("transformers_js.mjs")
NODE_VERSION = "4.3.1"
NODE_PACKAGES = Path(__file__).parent.parent / ".cache" / f"node-transformers-{NODE_VERSION}"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
CLIPS = int(os.environ.get("STENO_TEST_CLIP_COUNT", "3"))
SECONDS = 14
QUANTISED_WER = 0.05  # of so few words; one of them is half of it

Exported = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def model(models_dir: Path) -> LocalModel:
    return Store(models_dir).resolve("tiny.en")


@pytest.fixture(scope="module")
def sounds(speech_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of float32 at 16 kHz."""
    folder = tmp_path_factory.mktemp("sounds")
    given = os.environ.get("STENO_TEST_CLIPS")
    if given:
        paths = sorted(path for path in Path(given).rglob("*") if path.suffix in (".flac", ".wav"))
        arrays = [samples(path) for path in paths[:: max(1, len(paths) // CLIPS)][:CLIPS]]
    else:
        whole, length = samples(speech_wav), SECONDS * 16_000
        arrays = [whole[first : first + length] for first in range(0, CLIPS * length, length)]
    files = [folder / f"{number}.f32" for number in range(len(arrays))]
    for file, array in zip(files, arrays, strict=True):
        array.tofile(file)
    return files


def samples(path: Path) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
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
def reference(exported: Exported, sounds: Sequence[Path]) -> list[str]:
    """What Transformers hears."""
    needed("transformers", "torch")
    return heard("transformers", exported("transformers", "float32"), sounds)


def needed(*packages: str) -> None:
    for name in packages:
        if find_spec(name) is None:
            pytest.skip(f"`{name}` is not installed")


def heard(peer: str, model: Path, sounds: Sequence[Path], **environment: str) -> list[str]:
    command = [sys.executable, str(SCRIPT), peer, str(model), *map(str, sounds)]
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


def assert_near(texts: Sequence[str], wanted: Sequence[str]) -> None:
    assert all(texts)
    plain = [
        ["".join(c for c in text.lower() if c.isalnum() or c == " ") for text in side]
        for side in (wanted, texts)
    ]
    assert jiwer.wer(plain[0], plain[1]) <= QUANTISED_WER, (texts, wanted)


def test_reference_is_what_was_said(reference: list[str]) -> None:
    assert all(len(text.split()) > 5 for text in reference), reference


@pytest.mark.parametrize(
    ("peer", "to", "precision", "file"),
    [
        ("transformers", "transformers", "float16", ""),
        ("faster_whisper", "ctranslate2", "float16", ""),
        ("faster_whisper", "ctranslate2", "float32", ""),
        ("whisper", "openai", "float16", "model.pt"),
        ("whisper", "openai", "float32", "model.pt"),
        ("pywhispercpp", "ggml", "float16", "ggml-model.bin"),
        ("onnxruntime", "onnx", "float32", ""),
        ("openvino_genai", "openvino", "float16", ""),
        ("openvino_genai", "openvino", "float32", ""),
    ],
)
def test_peer_hears_the_same(
    peer: str,
    to: str,
    precision: str,
    file: str,
    exported: Exported,
    sounds: Sequence[Path],
    reference: list[str],
) -> None:
    need(peer, to)
    assert heard(peer, exported(to, precision) / file, sounds) == reference


@pytest.mark.parametrize(
    ("peer", "to", "precision", "file"),
    [
        ("faster_whisper", "ctranslate2", "int8", ""),
        ("pywhispercpp", "ggml", "q8_0", "ggml-model.bin"),
        ("pywhispercpp", "ggml", "q5_0", "ggml-model.bin"),
        ("onnxruntime", "onnx", "int8", ""),
        ("openvino_genai", "openvino", "int8", ""),
    ],
)
def test_peer_hears_nearly_the_same_with_fewer_bits(
    peer: str,
    to: str,
    precision: str,
    file: str,
    exported: Exported,
    sounds: Sequence[Path],
    reference: list[str],
) -> None:
    need(peer, to)
    suffix = "_quantized" if to == "onnx" else ""
    texts = heard(peer, exported(to, precision) / file, sounds, STENO_ONNX_SUFFIX=suffix)
    assert_near(texts, reference)


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
        subprocess.run([*install, wanted], check=True, capture_output=True)
    return NODE_PACKAGES


@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_transformers_js_hears_the_same(
    dtype: str,
    packages: Path,
    exported: Exported,
    sounds: Sequence[Path],
    reference: list[str],
) -> None:
    needed("onnx")
    folder = exported("onnx", "all")
    texts = answered(
        ["node", str(NODE_SCRIPT), str(packages), str(folder), dtype, *map(str, sounds)]
    )
    if dtype == "fp32":
        assert texts == reference
    else:
        assert_near(texts, reference)
