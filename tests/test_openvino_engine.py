"""The OpenVINO engine on real weights and real speech, beside CTranslate2 in the same precision."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

import ctranslate2
import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import FRAMES_PER_SECOND, Features, log_mel
from stenopool.audio.media import Recording
from stenopool.decoding.tokens import Vocabulary
from stenopool.engines.base import Alignment, Engine, Hypothesis, Search
from stenopool.engines.ctranslate2 import CTranslate2Engine
from stenopool.engines.openvino import OpenVINOEngine
from stenopool.engines.openvino.decoder import Heard
from stenopool.errors import ModelDamaged

SECONDS = 11.0
WINDOWS = 4
PRECISIONS = ("float32", "bfloat16", "int8")
GREEDY, BEAM = Search(beam_size=1), Search(beam_size=5)
LATER = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def features(speech_wav: Path) -> Features:
    """(4, 80, 3000) float32: eleven seconds of speech each, of different words."""
    with Recording(speech_wav) as recording:
        samples = np.concatenate(list(recording))[: round(WINDOWS * SECONDS * SAMPLE_RATE)]
    return np.stack([log_mel(part, 80) for part in np.split(samples, WINDOWS)])


@pytest.fixture(scope="module")
def folder(models_dir: Path) -> Path:
    return models_dir / "tiny.en"


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    return Vocabulary(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> dict[str, OpenVINOEngine]:
    return {name: OpenVINOEngine(folder, precision=name, threads=2) for name in PRECISIONS}


@pytest.fixture(scope="module", params=PRECISIONS)
def engine(request: pytest.FixtureRequest, loaded: dict[str, OpenVINOEngine]) -> OpenVINOEngine:
    return loaded[request.param]


@pytest.fixture(scope="module")
def exact(loaded: dict[str, OpenVINOEngine]) -> OpenVINOEngine:
    return loaded["float32"]


@pytest.fixture(scope="module")
def peer(folder: Path) -> CTranslate2Engine:
    """CTranslate2 in float32, so that differences are ours."""
    engine = CTranslate2Engine(folder, device="cpu", threads=1)
    engine._model = ctranslate2.models.Whisper(
        str(folder), device="cpu", compute_type="float32", intra_threads=1
    )
    return engine


def prompt(vocabulary: Vocabulary, *, told: str = "", timestamps: bool = False) -> list[int]:
    head = vocabulary.head(None, "transcribe")
    return vocabulary.prompt(head, vocabulary.context(told, ""), timestamps=timestamps)


def heard(
    engine: Engine, features: Features, told: Sequence[int], search: Search = GREEDY
) -> list[Hypothesis]:
    return engine.generate(engine.encode(features), [told] * len(features), search)


def words(vocabulary: Vocabulary, found: Sequence[Hypothesis]) -> list[str]:
    text = " ".join(vocabulary.text(one.tokens) for one in found)
    return re.findall(r"[a-z']+", text.lower())


def word_error(found: Sequence[str], expected: Sequence[str]) -> float:
    return Levenshtein.distance(found, expected) / len(expected)


# --- beside CTranslate2 -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(
    peer: CTranslate2Engine, features: Features, vocabulary: Vocabulary
) -> list[Hypothesis]:
    return heard(peer, features, prompt(vocabulary))


@pytest.fixture(scope="module")
def expected_of_beams(
    peer: CTranslate2Engine, features: Features, vocabulary: Vocabulary
) -> list[Hypothesis]:
    return heard(peer, features, prompt(vocabulary), BEAM)


def test_greedy_tokens_are_those_of_ctranslate2(
    exact: OpenVINOEngine,
    features: Features,
    vocabulary: Vocabulary,
    expected: list[Hypothesis],
) -> None:
    found = heard(exact, features, prompt(vocabulary))
    assert len(words(vocabulary, expected)) > 80
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=0.005)
        assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, abs=1e-4)


@pytest.mark.parametrize("search", [GREEDY, BEAM])
def test_words_of_every_precision_are_those_of_ctranslate2(
    engine: OpenVINOEngine,
    features: Features,
    vocabulary: Vocabulary,
    search: Search,
    expected: list[Hypothesis],
    expected_of_beams: list[Hypothesis],
) -> None:
    told = prompt(vocabulary)
    theirs = expected if search == GREEDY else expected_of_beams
    ours = heard(engine, features, told, search)
    assert word_error(words(vocabulary, ours), words(vocabulary, theirs)) < 0.03
    for one, other in zip(ours, theirs, strict=True):
        assert one.no_speech_prob == pytest.approx(other.no_speech_prob, abs=0.02)
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=0.05)


def test_probabilities_are_of_the_tokens_and_agree_with_their_mean(
    engine: OpenVINOEngine, features: Features, vocabulary: Vocabulary
) -> None:
    for one in heard(engine, features, prompt(vocabulary)):
        assert len(one.probabilities) == len(one.tokens)
        assert all(0 < share <= 1 for share in one.probabilities)
        logprobs = np.log(one.probabilities)  # the end token is one more
        last = one.avg_logprob * (len(logprobs) + 1) - logprobs.sum()
        assert -2.0 < last <= 1e-6


def test_precision_in_use_is_said(
    engine: OpenVINOEngine, loaded: dict[str, OpenVINOEngine]
) -> None:
    assert loaded[engine.precision] is engine
    assert (engine.name, engine.device, engine.multilingual) == ("openvino", "cpu", False)


# --- timestamps and alignment -----------------------------------------------------------------


def test_timestamps_come_in_rising_pairs(
    engine: OpenVINOEngine, features: Features, vocabulary: Vocabulary
) -> None:
    for one in heard(engine, features, prompt(vocabulary, timestamps=True), BEAM):
        first = vocabulary.first_timestamp
        stamps = [token - first for token in one.tokens if token >= first]
        assert one.tokens[0] >= first
        assert stamps == sorted(stamps)
        assert 0 <= stamps[0] <= 50
        assert stamps[-1] * 0.02 <= SECONDS + 2  # the model rounds up where speech is cut
        runs = re.findall(r"s+", "".join("s" if token >= first else "t" for token in one.tokens))
        assert all(len(run) == 2 for run in runs[1:-1])
        assert len(one.tokens) - len(stamps) > 10


def test_timestamped_words_are_those_of_ctranslate2(
    exact: OpenVINOEngine, peer: CTranslate2Engine, features: Features, vocabulary: Vocabulary
) -> None:
    told = prompt(vocabulary, timestamps=True)
    found, expected = heard(exact, features, told), heard(peer, features, told)
    assert word_error(words(vocabulary, found), words(vocabulary, expected)) < 0.05


def aligned(
    engine: Engine, features: Features, vocabulary: Vocabulary, texts: list[list[int]]
) -> list[Alignment]:
    head = vocabulary.head(None, "transcribe")
    return engine.align(engine.encode(features), head, texts, [SECONDS] * len(texts))


def test_tokens_begin_where_ctranslate2_says(
    engine: OpenVINOEngine,
    peer: CTranslate2Engine,
    features: Features,
    vocabulary: Vocabulary,
    expected: list[Hypothesis],
) -> None:
    texts = [vocabulary.text_tokens(one.tokens) for one in expected]
    ours = aligned(engine, features, vocabulary, texts)
    theirs = aligned(peer, features, vocabulary, texts)
    for one, other, text in zip(ours, theirs, texts, strict=True):
        assert one.starts.shape == other.starts.shape == (len(text) + 1,)
        assert one.probabilities is None
        assert (np.diff(one.starts) >= 0).all()
        assert np.abs(one.starts - other.starts).mean() < 0.1
        assert one.starts[-1] > SECONDS / 2


# --- batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "search", [GREEDY, *map(LATER, (BEAM, Search(temperature=0.6, best_of=3)))]
)
def test_window_is_heard_the_same_whatever_is_beside_it(
    exact: OpenVINOEngine, features: Features, vocabulary: Vocabulary, search: Search
) -> None:
    told = prompt(vocabulary)
    lone = [heard(exact, features[n : n + 1], told, search)[0] for n in range(WINDOWS)]
    for order in ([3, 1, 0, 2, 2, 0, 1, 3], [2, 0]):
        for number, found in zip(order, heard(exact, features[order], told, search), strict=True):
            assert found.tokens == lone[number].tokens
            assert found.avg_logprob == pytest.approx(lone[number].avg_logprob, abs=1e-3)
            assert found.no_speech_prob == pytest.approx(lone[number].no_speech_prob, abs=1e-5)


@pytest.mark.parametrize("search", [GREEDY, BEAM])
def test_window_in_int8_has_the_same_probabilities_alone_and_in_a_batch(
    loaded: dict[str, OpenVINOEngine], features: Features, vocabulary: Vocabulary, search: Search
) -> None:
    engine, told = loaded["int8"], prompt(vocabulary)
    encoded = cast("list[Heard]", engine.encode(features))
    together = engine.generate(encoded, [told] * WINDOWS, search)
    for heard_, found in zip(encoded, together, strict=True):
        assert engine.generate([heard_], [told], search) == [found]


def test_alignment_after_decoding_belongs_to_its_window(
    exact: OpenVINOEngine, features: Features, vocabulary: Vocabulary
) -> None:
    encoded = exact.encode(features)  # decoding lets its windows change places
    found = exact.generate(encoded, [prompt(vocabulary)] * WINDOWS, GREEDY)
    assert len({len(one.tokens) for one in found}) > 1
    texts = [vocabulary.text_tokens(one.tokens) for one in found]
    head = vocabulary.head(None, "transcribe")
    batch = exact.align(encoded, head, texts, [SECONDS] * WINDOWS)
    for number, text in enumerate(texts):
        (lone,) = aligned(exact, features[number : number + 1], vocabulary, [text])
        assert np.abs(lone.starts - batch[number].starts).max() <= 0.04
    again = exact.generate(encoded, [prompt(vocabulary)] * WINDOWS, GREEDY)
    assert [one.tokens for one in again] == [one.tokens for one in found]


def test_short_window_is_heard_as_ctranslate2_hears_it(
    exact: OpenVINOEngine, peer: CTranslate2Engine, speech_wav: Path, vocabulary: Vocabulary
) -> None:
    """It knows of no repetitions: CTranslate2 attends to the short window itself."""
    seconds = exact.short_frames / FRAMES_PER_SECOND
    with Recording(speech_wav) as recording:
        samples = np.concatenate(list(recording))[: round((seconds - 1) * SAMPLE_RATE)]
    short = np.ascontiguousarray(log_mel(samples, 80)[None, :, : exact.short_frames])
    told = prompt(vocabulary)
    (ours,), (theirs,) = heard(exact, short, told), heard(peer, short, told)
    assert ours.tokens == theirs.tokens
    assert len(ours.tokens) > 15
    assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=1e-3)
    texts = [ours.tokens]
    head = vocabulary.head(None, "transcribe")
    (found,), (expected,) = (
        one.align(one.encode(short), head, texts, [seconds - 1]) for one in (exact, peer)
    )
    assert np.abs(found.starts - expected.starts).max() < 0.1


@pytest.mark.slow
def test_calls_from_threads_give_the_same_as_alone(
    folder: Path, features: Features, vocabulary: Vocabulary
) -> None:
    engine = OpenVINOEngine(folder, precision="float32", threads=8)
    assert len(engine._groups) == 2
    told = prompt(vocabulary)
    lone = [heard(engine, features[n : n + 1], told)[0].tokens for n in range(WINDOWS)]
    with ThreadPoolExecutor(4) as pool:  # more than workers: some wait
        found = pool.map(lambda n: heard(engine, features[n : n + 1], told), [*range(WINDOWS)] * 3)
        assert [one[0].tokens for one in found] == lone * 3


def test_greedy_windows_that_join_a_running_batch_are_heard_as_alone(
    loaded: dict[str, OpenVINOEngine], features: Features, vocabulary: Vocabulary
) -> None:
    engine, told = loaded["int8"], prompt(vocabulary)
    lone = [heard(engine, features[n : n + 1], told)[0].tokens for n in range(WINDOWS)]
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda n: heard(engine, features[n : n + 1], told), [*range(WINDOWS)] * 6)
        )
    assert [one[0].tokens for one in found] == lone * 6


# --- search and prompt ------------------------------------------------------------------------


def test_samples_repeat_themselves_and_differ_from_the_best(
    exact: OpenVINOEngine, features: Features, vocabulary: Vocabulary
) -> None:
    told, wild = prompt(vocabulary), Search(temperature=1.5, best_of=1, max_tokens=30)
    first, again = (heard(exact, features, told, wild) for _ in range(2))
    assert [one.tokens for one in first] == [one.tokens for one in again]
    plain = heard(exact, features, told, Search(beam_size=1, max_tokens=30))
    assert [one.tokens for one in first] != [one.tokens for one in plain]


@pytest.mark.parametrize("size", [1, 5])
def test_limit_of_tokens_is_kept(
    exact: OpenVINOEngine, features: Features, vocabulary: Vocabulary, size: int
) -> None:
    told = prompt(vocabulary)
    search = Search(beam_size=size, max_tokens=len(told) + 5)
    assert [len(one.tokens) for one in heard(exact, features, told, search)] == [5] * WINDOWS


def test_prompt_is_heard_and_leaves_the_words(
    engine: OpenVINOEngine, features: Features, vocabulary: Vocabulary
) -> None:
    plain = heard(engine, features[:1], prompt(vocabulary))
    told = heard(engine, features[:1], prompt(vocabulary, told="wisdom, foolishness, epoch"))
    assert word_error(words(vocabulary, told), words(vocabulary, plain)) < 0.1
    assert abs(told[0].avg_logprob - plain[0].avg_logprob) > 1e-3
    assert told[0].no_speech_prob < 0.5


def test_prompted_tokens_are_those_of_ctranslate2(
    exact: OpenVINOEngine, peer: CTranslate2Engine, features: Features, vocabulary: Vocabulary
) -> None:
    told = prompt(vocabulary, told="Charles Dickens, A Tale of Two Cities")
    ours, theirs = (heard(engine, features, told) for engine in (exact, peer))
    assert [one.tokens for one in ours] == [one.tokens for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-4)


# --- failures ---------------------------------------------------------------------------------


def test_features_of_another_model_are_refused(
    exact: OpenVINOEngine, features: Features, vocabulary: Vocabulary
) -> None:
    with pytest.raises(ValueError, match="window of"):
        exact.encode(features[:, :70])
    assert heard(exact, features[:1], prompt(vocabulary))[0].tokens  # and it goes on


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the model that a test may damage."""
    copy = tmp_path / "tiny.en"
    shutil.copytree(folder, copy)
    yield copy
    shutil.rmtree(copy)


def opened(folder: Path) -> OpenVINOEngine:
    return OpenVINOEngine(folder, precision="float32", threads=1)


@pytest.mark.parametrize("text", ["", "[]", '{"added_tokens": [1]}', "\x00", "[" * 100_000])
def test_damaged_tokenizer_is_refused(broken: Path, text: str) -> None:
    (broken / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelDamaged, match=r"`tokenizer\.json`") as error:
        opened(broken)
    assert "--force" in error.value.do


@pytest.mark.parametrize(
    "token", ["<|startoftranscript|>", "<|endoftext|>", "<|nocaptions|>", "<|notimestamps|>"]
)
def test_tokenizer_without_a_command_is_refused(broken: Path, token: str) -> None:
    file = broken / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    left = [one for one in tokenizer["added_tokens"] if one["content"] != token]
    assert len(left) == len(tokenizer["added_tokens"]) - 1
    file.write_text(json.dumps({"added_tokens": left}), encoding="utf-8")
    with pytest.raises(ModelDamaged, match=re.escape(token)):
        opened(broken)


def test_damaged_weights_are_refused(broken: Path) -> None:
    (broken / "model.bin").write_bytes((broken / "model.bin").read_bytes()[:50_000_000])
    with pytest.raises(ModelDamaged, match="cut off"):
        opened(broken)
