"""The decoder's kernels beside the same in NumPy, float64, written down as the paper says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stenopool.engines.openvino import decoder, library
from stenopool.engines.openvino.decoder import CANDIDATES, Decoder, Heard, PackedDecoder, Past, Rows
from stenopool.engines.openvino.library import Team
from stenopool.engines.rules import Next
from stenopool.errors import EngineFailed, EngineMissing, ModelDamaged
from stenopool.models.weights import WhisperShape, WhisperWeights
from whisper_in_numpy import (
    VARIANTS,
    Layers,
    Numbers,
    heads,
    joined,
    kernels,
    numbers,
    random_weights,
    softmax,
)

SHAPE = WhisperShape(
    mel_bins=80, width=128, encoder_layers=1, decoder_layers=2, vocabulary=173, text_positions=64
)
INNER, END, SUPPRESSED = 320, 150, (3, 77)
POSITIONS = (37, 100)  # no multiples of what the kernels like


Audio = list[list[NDArray[np.float32]]]


@pytest.fixture(scope="module")
def weights() -> WhisperWeights:
    return random_weights(SHAPE, INNER)


@pytest.fixture(scope="module")
def audio() -> Audio:
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


KINDS = [(name, int8) for name in VARIANTS for int8 in (False, True)]


@pytest.fixture(params=[one for one in KINDS if not one[1] or "avx2" in library.VARIANTS[one[0]]])
def int8(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernels, each variant in turn, quantise."""
    variant, quantise = request.param
    assert kernels(variant, monkeypatch).decoder_has_int8() >= quantise
    return bool(quantise)


Make = Callable[[int], Decoder]


@pytest.fixture
def make(weights: WhisperWeights, int8: bool) -> Make:
    """A decoder with so many threads."""

    def of(threads: int) -> Decoder:
        team = Team(threads)
        packed = PackedDecoder(weights, int8=int8, end=END, suppressed=SUPPRESSED, team=team)
        return Decoder(packed, team)

    return of


# --- the same in NumPy --------------------------------------------------------------------------


class Reference:
    """A window's text decoder without a cache: all tokens at once."""

    def __init__(self, weights: WhisperWeights, audio: Sequence[NDArray[Any]]) -> None:
        self._layers = Layers(weights)
        self._audio = [one.astype(np.float64) for one in audio]
        self.attention: list[Numbers] = []  # to the audio: (heads, tokens, positions) a layer

    def logits(self, tokens: Sequence[int]) -> Numbers:
        """(tokens, vocabulary)"""
        layers = self._layers
        table = layers.weights["model.decoder.embed_tokens.weight"]
        x = table[tokens] + layers.weights["model.decoder.embed_positions.weight"][: len(tokens)]
        for layer in range(SHAPE.decoder_layers):
            name = f"model.decoder.layers.{layer}"
            x = x + layers.self_attention(x, name, causal=True)
            y = layers.norm(x, f"{name}.encoder_attn_layer_norm")
            query = heads(layers.linear(y, f"{name}.encoder_attn.q_proj"))
            keys, values = self._audio[2 * layer : 2 * layer + 2]
            shares = softmax(query @ keys.transpose(0, 2, 1) / 8)
            self.attention.append(shares)
            heard = joined(shares @ values.transpose(0, 2, 1))
            x = x + layers.linear(heard, f"{name}.encoder_attn.out_proj")
            x = x + layers.feed_forward(x, name)
        return np.asarray(layers.norm(x, "model.decoder.layer_norm") @ table.T)


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


def test_hypotheses_that_part_are_told_what_follows(
    make: Make, weights: WhisperWeights, audio: Audio, int8: bool
) -> None:
    """Two windows: one with three lanes that part twice, one with a long prompt."""
    found, tolerance = make(2), 1.0 if int8 else 2e-4
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
    make: Make, weights: WhisperWeights, audio: Audio, int8: bool
) -> None:
    found = make(2)
    heard, past = found.hear(audio[0]), found.past()
    text = [(5 * n + 1) % 150 for n in range(50)]
    for token in text:
        lanes = 3 if past.length else 1
        step = found.step([rows(heard, past, [token] * lanes, [0] * lanes)])
    assert past.nodes.shape[1] > decoder._FIRST_NODES
    logits = Reference(weights, audio[0]).logits(text)[-1]
    for row in range(3):
        assert_follows(step, row, logits, 1.0 if int8 else 2e-4)


def test_attention_of_chosen_heads_over_the_first_positions(
    make: Make, weights: WhisperWeights, audio: Audio, int8: bool
) -> None:
    found = make(2)
    tokens, chosen, kept = [151, 9, 30, 41, 8, 2, 3, 150], [(1, 0), (0, 1)], 61
    attention = found.attention(found.hear(audio[1]), tokens, kept, chosen)
    reference = Reference(weights, audio[1])
    reference.logits(tokens)
    for ours, (layer, head) in zip(attention, chosen, strict=True):
        theirs = reference.attention[layer][head, :, :kept]
        theirs /= theirs.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(ours, theirs, atol=0.03 if int8 else 1e-5)


def test_bfloat16_is_heard_as_the_same_numbers_in_float32(make: Make, audio: Audio) -> None:
    found = make(2)
    bits = [(one.view(np.uint32) >> 16).astype(np.uint16) for one in audio[0]]
    floats = [numbers(one) for one in bits]
    np.testing.assert_array_equal(found.hear(bits).block, found.hear(floats).block)


def test_audio_that_is_no_number_is_refused(make: Make, audio: Audio) -> None:
    spoiled = [one.copy() for one in audio[0]]
    spoiled[1][:, :, 11] = np.nan
    bits = [(one.view(np.uint32) >> 16).astype(np.uint16) for one in spoiled]
    for layers in (spoiled, bits):
        with pytest.raises(EngineFailed, match="overflows"):
            make(2).hear(layers)


@pytest.mark.filterwarnings("error")
def test_text_that_is_no_number_is_told(make: Make, audio: Audio) -> None:
    decoder = make(2)
    decoder._packed.table = decoder._packed.table.copy()
    decoder._packed.table[4] = np.nan
    heard = [decoder.hear(one) for one in audio]
    found = decoder.step(
        [rows(one, decoder.past(), [token]) for one, token in zip(heard, (4, 5), strict=True)]
    )
    assert np.isfinite(found.mass).tolist() == [False, True]


def test_numbers_depend_neither_on_threads_nor_on_other_rows(make: Make, audio: Audio) -> None:
    """Nor on the tile registers, which only many rows use."""

    def follows(threads: int, others: int) -> list[NDArray[Any]]:
        found = make(threads)
        heard, other = (found.hear(one) for one in audio)
        before = [rows(other, found.past(), [n] * (n + 1)) for n in range(others)]
        step = found.step([*before, rows(heard, found.past(), [151, 4, 99])])
        return [one[-3:] for one in (step.ids, step.logits, step.mass, step.specials)]

    lone = follows(1, 0)
    for threads, others in ((1, 5), (2, 0), (2, 3), (5, 9)):
        for one, expected_ in zip(follows(threads, others), lone, strict=True):
            np.testing.assert_array_equal(one, expected_)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", [0, CANDIDATES - 1, SHAPE.vocabulary, 10**6])
def test_tokens_that_do_not_fit_the_vocabulary_are_a_damaged_model(
    weights: WhisperWeights, end: int
) -> None:
    with pytest.raises(ModelDamaged, match="sizes"):
        PackedDecoder(weights, int8=False, end=end, suppressed=(), team=Team(1))


def test_missing_kernels_are_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    library.library.cache_clear()
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    with pytest.raises(EngineMissing, match="not compiled") as error:
        library.library()
    assert "C compiler" in error.value.do
    assert "--engine ctranslate2" in error.value.do


class Opened:
    """In place of kernels that this CPU may not have."""

    refused = ""

    def __init__(self, path: str) -> None:
        self.name = path.rsplit("/", maxsplit=1)[-1].split(".", maxsplit=1)[0]

    def kernels_begin(self) -> bool:
        return self.name != self.refused


def chosen(monkeypatch: pytest.MonkeyPatch, has: frozenset[str]) -> str:
    """The variant for a CPU with these features."""
    monkeypatch.setattr(library, "opened", Opened)
    monkeypatch.setattr(library, "flags", lambda: has)
    library.library.cache_clear()
    name = library.library().name
    library.library.cache_clear()
    return str(name)


def test_cpu_gets_only_kernels_that_it_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chosen(monkeypatch, frozenset()) == "_kernels"
    assert chosen(monkeypatch, library._AVX2) == "_kernels_avx2"
    assert chosen(monkeypatch, library._AVX2 | {"avx_vnni"}) == "_kernels_avxvnni"
    assert chosen(monkeypatch, library._AVX512) == "_kernels_avx512"
    assert chosen(monkeypatch, library._AVX512 - {"avx512_vnni"}) == "_kernels_avx2"
    assert chosen(monkeypatch, library._AMX) == "_kernels_amx"


def test_system_may_refuse_the_tile_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Opened, "refused", "_kernels_amx")
    assert chosen(monkeypatch, library._AMX) == "_kernels_avx512"
