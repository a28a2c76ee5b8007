"""The network that finds speech gives the same numbers on each of its libraries."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stenopool.audio.media import Recording
from stenopool.audio.vad_network import Array, Network, Outputs, _onnxruntime, _openvino

FRAMES = 250


@pytest.fixture(scope="module")
def frames(speech_wav: Path) -> Array:
    """(500, 576) float32 of speech."""
    with Recording(speech_wav) as recording:
        samples = np.concatenate(list(recording))
    starts = np.lib.stride_tricks.sliding_window_view(samples, 576)[::512]
    return np.ascontiguousarray(starts[: 2 * FRAMES])


@pytest.fixture(scope="module", params=[_openvino, _onnxruntime])
def network(request: pytest.FixtureRequest, models_dir: Path) -> Network:
    pytest.importorskip(request.param.__name__[1:])
    return request.param(models_dir / "silero-vad" / "silero_vad.onnx")  # type: ignore[no-any-return]


def halves(network: Network, frames: Array) -> list[Outputs]:
    state = np.zeros((1, 1, 128), dtype=np.float32)
    first = network(frames[:FRAMES], state, state)
    return [first, network(frames[FRAMES:], first[1], first[2])]


def test_states_carry_what_was_heard_to_the_next_call(network: Network, frames: Array) -> None:
    state = np.zeros((1, 1, 128), dtype=np.float32)
    whole = network(frames, state, state)
    parts = halves(network, frames)
    probabilities = np.concatenate([part[0].reshape(-1) for part in parts])
    np.testing.assert_allclose(probabilities, whole[0].reshape(-1), atol=1e-5)
    np.testing.assert_allclose(parts[1][1], whole[1], atol=1e-4)
    assert probabilities.min() < 0.1
    assert probabilities.max() > 0.9


def test_libraries_agree(models_dir: Path, frames: Array) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    file = models_dir / "silero-vad" / "silero_vad.onnx"
    ours, theirs = (halves(build(file), frames) for build in (_openvino, _onnxruntime))
    for one, other in zip(ours, theirs, strict=True):
        for found, expected in zip(one, other, strict=True):
            np.testing.assert_allclose(found.reshape(-1), expected.reshape(-1), atol=1e-4)


def test_calls_from_threads_do_not_mix(network: Network, frames: Array) -> None:
    parts = [frames[start:] for start in range(0, 200, 50)]
    alone = [halves(network, part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda part: halves(network, part), parts))
    for one, other in zip(together, alone, strict=True):
        for found, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(found[0], expected[0])
