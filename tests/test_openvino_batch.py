"""The batch that runs, on real weights and speech in float32: nobody hears who is beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import Features, log_mel
from stenopool.audio.media import Recording
from stenopool.decoding.tokens import Vocabulary
from stenopool.engines.base import Hypothesis, Search
from stenopool.engines.openvino import OpenVINOEngine
from stenopool.engines.openvino.batch import Batch, Decoding
from stenopool.engines.openvino.decoder import Decoder, Heard, Rows
from stenopool.engines.rules import Next
from stenopool.engines.search import strategy
from stenopool.errors import EngineFailed

WINDOWS = 5
GREEDY, BEAM = Search(beam_size=1), Search(beam_size=4)


@pytest.fixture(scope="module")
def engine(models_dir: Path) -> OpenVINOEngine:
    return OpenVINOEngine(models_dir / "tiny.en", precision="float32", threads=2)


@pytest.fixture(scope="module")
def vocabulary(models_dir: Path) -> Vocabulary:
    return Vocabulary(models_dir / "tiny.en" / "tokenizer.json")


@pytest.fixture(scope="module")
def features(speech_wav: Path) -> Features:
    """Windows of different lengths, so that they are done at different times."""
    with Recording(speech_wav) as recording:
        samples = np.concatenate(list(recording))
    ends = np.cumsum([3, 9, 5, 7, 4]) * SAMPLE_RATE
    return np.stack([log_mel(part, 80) for part in np.split(samples, ends)[:WINDOWS]])


Begin = Callable[..., Decoding]


@pytest.fixture(scope="module")
def begin(engine: OpenVINOEngine, vocabulary: Vocabulary, features: Features) -> Begin:
    """The decoding of one of the windows."""
    windows = cast("list[Heard]", engine.encode(features))
    special = engine._special

    def of(number: int, search: Search = GREEDY, told: str = "") -> Decoding:
        context = vocabulary.context(told, "")
        head = vocabulary.head(None, "transcribe")
        prompt = vocabulary.prompt(head, context, timestamps=False)
        chosen = strategy(special, search, timestamps=False)
        return Decoding(windows[number], prompt, chosen, 448 - len(prompt))

    return of


@pytest.fixture
def running(engine: OpenVINOEngine) -> Batch:
    return engine._groups[0]._batch


def finished(running: Batch, *decodings: Decoding) -> list[Hypothesis]:
    for _ in range(1000):
        if all(one.has_left for one in decodings):
            break
        running.step()
    found = [one.outcome for one in decodings if isinstance(one.outcome, Hypothesis)]
    assert len(found) == len(decodings)
    return found


def alone(running: Batch, decoding: Decoding) -> Hypothesis:
    running.add([decoding])
    return finished(running, decoding)[0]


def assert_same(found: Hypothesis, expected: Hypothesis) -> None:
    assert found == expected


@pytest.mark.parametrize("search", [GREEDY, BEAM])
def test_window_that_joins_late_is_heard_as_if_alone(
    running: Batch, begin: Begin, search: Search
) -> None:
    expected = [alone(running, begin(number, search)) for number in range(WINDOWS)]
    assert len({len(one.tokens) for one in expected}) > 2
    late = [begin(number, search) for number in range(WINDOWS)]
    most = 0
    for one in late:
        running.add([one])
        for _ in range(6):
            running.step()
            most = max(most, len(running._active))
    for found, lone in zip(finished(running, *late), expected, strict=True):
        assert_same(found, lone)
    assert most > 2
    assert not running._active


def test_windows_wait_for_a_place(running: Batch, begin: Begin) -> None:
    expected = [alone(running, begin(number)) for number in range(WINDOWS)]
    many = [begin(number % WINDOWS) for number in range(20)]
    running.add(many)
    running.step()
    assert len(running._active) == running._places < len(many)
    for number, found in enumerate(finished(running, *many)):
        assert_same(found, expected[number % WINDOWS])


def test_windows_with_different_prompts_and_searches_share_a_batch(
    running: Batch, begin: Begin
) -> None:
    wild = Search(temperature=0.7, best_of=3)
    kinds: list[dict[str, Any]] = [
        {"number": 0},
        {"number": 1, "told": "wisdom, foolishness, epoch, incredulity"},
        {"number": 2, "search": BEAM},
        {"number": 3, "search": wild},
        {"number": 4, "search": BEAM, "told": "Charles Dickens"},
    ]
    expected = [alone(running, begin(**kind)) for kind in kinds]
    together = [begin(**kind) for kind in kinds]
    running.add(together)
    for found, lone in zip(finished(running, *together), expected, strict=True):
        assert_same(found, lone)


def test_window_that_nobody_waits_for_leaves(running: Batch, begin: Begin) -> None:
    left, kept = begin(1), begin(0)
    expected = alone(running, begin(0))
    running.add([left, kept])
    for _ in range(5):
        running.step()
    left.left = 0
    running.step()
    assert left not in running._active
    assert_same(finished(running, kept)[0], expected)


@pytest.mark.parametrize("error", [EngineFailed("no memory", do="wait"), KeyboardInterrupt()])
def test_failure_is_told_to_all_in_the_batch_and_to_nobody_after(
    running: Batch, begin: Begin, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    expected = alone(running, begin(0))
    both = [begin(0), begin(1)]
    running.add(both)
    running.step()

    def fails(self: Decoder, windows: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "step", fails)
        if isinstance(error, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                running.step()
        else:
            running.step()
    assert all(isinstance(one.outcome, EngineFailed) and one.has_left for one in both)
    assert_same(alone(running, begin(0)), expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("after", [0, 3])
def test_window_whose_numbers_overflow_fails_alone(
    running: Batch, begin: Begin, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    expected = alone(running, begin(1))
    both = [begin(0), begin(1)]
    running.add(both)
    for _ in range(after):
        running.step()
    step = Decoder.step

    def overflows(self: Decoder, windows: Sequence[Rows]) -> Next:
        found = step(self, windows)
        found.mass[0] = np.nan
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "step", overflows)
        running.step()
    assert isinstance(both[0].outcome, EngineFailed)
    assert_same(finished(running, both[1])[0], expected)
