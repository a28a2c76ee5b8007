"""The decoder's kernels beside the same in NumPy, float64, written down as the paper says it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from math import erf
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stenopool.engines.openvino import decoder, library
from stenopool.engines.openvino.decoder import CANDIDATES, Decoder, Heard, PackedDecoder, Past, Rows
from stenopool.engines.openvino.processor import flags
from stenopool.engines.rules import Next
from stenopool.errors import EngineMissing, ModelDamaged
from stenopool.models.weights import Generation, WhisperShape, WhisperWeights, expected

Numbers = NDArray[np.float64]

SHAPE = WhisperShape(
    mel_bins=80, width=128, encoder_layers=1, decoder_layers=2, vocabulary=173, text_positions=64
)
INNER, END, SUPPRESSED = 320, 150, (3, 77)
POSITIONS = (37, 100)  # no multiples of what the kernels like


@pytest.fixture(scope="module")
def weights() -> WhisperWeights:
    random = np.random.default_rng(1)
    tensors = {}
    for name, size in expected(SHAPE, INNER):
        spread = 1.0 if "embed" in name else 1.5 * size[-1] ** -0.5
        tensors[name] = random.normal(1.0 if "norm.weight" in name else 0.0, spread, size)
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    return WhisperWeights(SHAPE, Generation((), (), ()), halves)


@pytest.fixture(scope="module")
def audio() -> list[list[NDArray[np.float32]]]:
    """Of each window each layer's keys and values."""
    random = np.random.default_rng(2)
    return [
        [
            random.normal(0.0, 1.0, (2, *size)).astype(np.float32)
            for _ in range(SHAPE.decoder_layers)
            for size in ((positions, 64), (64, positions))
        ]
        for positions in POSITIONS
    ]


def variants() -> list[str]:
    return [name for name, needed in library.VARIANTS.items() if needed <= flags()]


@pytest.fixture(params=variants())
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    found = find_spec(f"stenopool.engines.openvino.{request.param}")
    assert found
    assert found.origin
    opened = library.opened(found.origin)
    monkeypatch.setattr(decoder, "library", lambda: opened)
    return opened


Make = Callable[..., Decoder]


@pytest.fixture
def make(variant: ctypes.CDLL, weights: WhisperWeights) -> Make:
    def of(*, int8: bool = False, threads: int = 2) -> Decoder:
        if int8 and not variant.decoder_has_int8():
            pytest.skip("made for CPUs without VNNI")
        return Decoder(PackedDecoder(weights, int8=int8, end=END, suppressed=SUPPRESSED), threads)

    return of


# --- the same in NumPy --------------------------------------------------------------------------


def softmax(x: Numbers) -> Numbers:
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


class Reference:
    """A window's text decoder without a cache: all tokens at once."""

    def __init__(self, weights: WhisperWeights, audio: Sequence[NDArray[Any]]) -> None:
        self._weights = {name: one.astype(np.float64) for name, one in weights.tensors.items()}
        self._audio = [one.astype(np.float64) for one in audio]
        self.attention: list[Numbers] = []  # to the audio: (heads, tokens, positions) a layer

    def linear(self, x: Numbers, name: str) -> Numbers:
        product = x @ self._weights[f"{name}.weight"].T
        return np.asarray(product + self._weights.get(f"{name}.bias", 0.0))

    def norm(self, x: Numbers, name: str) -> Numbers:
        apart = x - x.mean(axis=-1, keepdims=True)
        found = apart / np.sqrt((apart**2).mean(axis=-1, keepdims=True) + 1e-5)
        return np.asarray(found * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"])

    def logits(self, tokens: Sequence[int]) -> Numbers:
        """(tokens, vocabulary)"""
        count = len(tokens)
        table = self._weights["model.decoder.embed_tokens.weight"]
        x = table[tokens] + self._weights["model.decoder.embed_positions.weight"][:count]
        later = np.triu(np.full((count, count), -np.inf), 1)
        for layer in range(SHAPE.decoder_layers):
            name = f"model.decoder.layers.{layer}"
            y = self.norm(x, f"{name}.self_attn_layer_norm")
            query, key, value = (
                self.heads(self.linear(y, f"{name}.self_attn.{kind}_proj")) for kind in "qkv"
            )
            seen = softmax(query @ key.transpose(0, 2, 1) / 8 + later) @ value
            x = x + self.linear(self.joined(seen), f"{name}.self_attn.out_proj")
            y = self.norm(x, f"{name}.encoder_attn_layer_norm")
            query = self.heads(self.linear(y, f"{name}.encoder_attn.q_proj"))
            keys, values = self._audio[2 * layer : 2 * layer + 2]
            shares = softmax(query @ keys.transpose(0, 2, 1) / 8)
            self.attention.append(shares)
            heard = shares @ values.transpose(0, 2, 1)
            x = x + self.linear(self.joined(heard), f"{name}.encoder_attn.out_proj")
            y = self.linear(self.norm(x, f"{name}.final_layer_norm"), f"{name}.fc1")
            y = y * (1 + np.vectorize(erf)(y / np.sqrt(2))) / 2
            x = x + self.linear(y, f"{name}.fc2")
        return np.asarray(self.norm(x, "model.decoder.layer_norm") @ table.T)

    @staticmethod
    def heads(x: Numbers) -> Numbers:
        return x.reshape(len(x), -1, 64).transpose(1, 0, 2)

    @staticmethod
    def joined(x: Numbers) -> Numbers:
        return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def rows(heard: Heard, past: Past, tokens: Sequence[int], parents: Sequence[int] = (0,)) -> Rows:
    """New tokens, of which it is asked what follows all."""
    past.grow(parents, len(tokens) // len(parents))
    return Rows(heard, past, tokens, range(len(tokens)))


def assert_follows(found: Next, row: int, logits: Numbers, tolerance: float) -> None:
    """That a row is told what NumPy says of these logits."""
    text = logits[:END].copy()
    text[list(SUPPRESSED)] = -np.inf
    best = np.argsort(-text)[:CANDIDATES]
    assert set(found.ids[row, :4]) <= set(best)
    np.testing.assert_allclose(found.logits[row], text[found.ids[row]], atol=tolerance)
    assert found.logits[row].min() > text[best[-1]] - tolerance
    assert found.mass[row] == pytest.approx(np.logaddexp.reduce(text), abs=tolerance)
    np.testing.assert_allclose(found.specials[row], logits[END:], atol=tolerance)


# --- beside it ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("int8", "tolerance"), [(False, 2e-4), (True, 1.0)])
def test_hypotheses_that_part_are_told_what_follows(
    make: Make,
    weights: WhisperWeights,
    audio: list[list[NDArray[np.float32]]],
    int8: bool,
    tolerance: float,
) -> None:
    """Two windows: one with three lanes that part twice, one with a long prompt."""
    found = make(int8=int8)
    first, second = (found.hear(one) for one in audio)
    past, other = found.past(), found.past()
    expect = [Reference(weights, one) for one in audio]
    told = [151, 2, 3]
    told_other = [(7 * n) % 150 for n in range(40)]
    step = found.step([rows(first, past, told), rows(second, other, told_other)])
    for logits, begin, count in (
        (expect[0].logits(told), 0, 3),
        (expect[1].logits(told_other), 3, 40),
    ):
        for row in range(count):
            assert_follows(step, begin + row, logits[row], tolerance)
    step = found.step([rows(first, past, [9, 10, 11], [0, 0, 0]), rows(second, other, [5])])
    assert_follows(step, 1, expect[0].logits([*told, 10])[-1], tolerance)
    assert_follows(step, 3, expect[1].logits([*told_other, 5])[-1], tolerance)
    step = found.step([rows(first, past, [20, 21, 22], [2, 0, 2])])
    for row, path in enumerate(([11, 20], [9, 21], [11, 22])):
        assert_follows(step, row, expect[0].logits([*told, *path])[-1], tolerance)


def test_past_grows_beyond_its_first_room(
    make: Make, weights: WhisperWeights, audio: list[list[NDArray[np.float32]]]
) -> None:
    found = make()
    heard, past = found.hear(audio[0]), found.past()
    text = [(5 * n + 1) % 150 for n in range(50)]
    for token in text:
        lanes = 3 if past.length else 1
        step = found.step([rows(heard, past, [token] * lanes, [0] * lanes)])
    assert past.nodes.shape[1] > decoder._FIRST_NODES
    logits = Reference(weights, audio[0]).logits(text)[-1]
    for row in range(3):
        assert_follows(step, row, logits, 2e-4)


@pytest.mark.parametrize(("int8", "tolerance"), [(False, 1e-5), (True, 0.03)])
def test_attention_of_chosen_heads_over_the_first_positions(
    make: Make,
    weights: WhisperWeights,
    audio: list[list[NDArray[np.float32]]],
    int8: bool,
    tolerance: float,
) -> None:
    found = make(int8=int8)
    tokens, heads, kept = [151, 9, 30, 41, 8, 2, 3, 150], [(1, 0), (0, 1)], 61
    attention = found.attention(found.hear(audio[1]), tokens, kept, heads)
    reference = Reference(weights, audio[1])
    reference.logits(tokens)
    for ours, (layer, head) in zip(attention, heads, strict=True):
        theirs = reference.attention[layer][head, :, :kept]
        theirs /= theirs.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


def test_bfloat16_is_heard_as_the_same_numbers_in_float32(
    make: Make, audio: list[list[NDArray[np.float32]]]
) -> None:
    for int8 in (False, True):
        found = make(int8=int8)
        bits = [(one.view(np.uint32) >> 16).astype(np.uint16) for one in audio[0]]
        floats = [(one.astype(np.uint32) << 16).view(np.float32) for one in bits]
        np.testing.assert_array_equal(found.hear(bits).block, found.hear(floats).block)


@pytest.mark.parametrize("int8", [False, True])
def test_numbers_depend_neither_on_threads_nor_on_other_rows(
    make: Make, audio: list[list[NDArray[np.float32]]], int8: bool
) -> None:
    def follows(threads: int, others: int) -> list[NDArray[Any]]:
        found = make(int8=int8, threads=threads)
        heard, other = (found.hear(one) for one in audio)
        before = [rows(other, found.past(), [n] * (n + 1)) for n in range(others)]
        step = found.step([*before, rows(heard, found.past(), [151, 4, 99])])
        return [one[-3:] for one in (step.ids, step.logits, step.mass, step.specials)]

    lone = follows(1, 0)
    for threads, others in ((1, 5), (2, 0), (5, 9)):
        for one, expected_ in zip(follows(threads, others), lone, strict=True):
            np.testing.assert_array_equal(one, expected_)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", [0, CANDIDATES - 1, SHAPE.vocabulary, 10**6])
def test_tokens_that_do_not_fit_the_vocabulary_are_a_damaged_model(
    weights: WhisperWeights, end: int
) -> None:
    with pytest.raises(ModelDamaged, match="sizes"):
        PackedDecoder(weights, int8=False, end=end, suppressed=())


def test_missing_kernels_are_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    library.library.cache_clear()
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    with pytest.raises(EngineMissing, match="not compiled") as error:
        library.library()
    assert "C compiler" in error.value.do
    assert "--engine ctranslate2" in error.value.do


def test_cpu_gets_only_kernels_that_it_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(library, "opened", opened.append)
    for has in (frozenset(), library._AVX2, library._AVX512, library._AVX512 - {"avx512_vnni"}):
        library.library.cache_clear()
        monkeypatch.setattr(library, "flags", lambda has=has: has)
        library.library()
    library.library.cache_clear()
    names = [path.split("/")[-1].split(".")[0] for path in opened]
    assert names == ["_decoder", "_decoder_avx2", "_decoder_avx512", "_decoder_avx2"]
