"""Best path, alignment and beam search against all paths there are; hot words; the alphabet."""

from __future__ import annotations

from itertools import groupby, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctc_models import ALPHABET, ToneEngine, spoken, write_json
from stenopool.decoding.ctc import viterbi
from stenopool.decoding.ctc.alphabet import Alphabet
from stenopool.decoding.ctc.hotwords import BOOST, HotWords
from stenopool.decoding.ctc.path import best_path, no_speech_probability, runs, words_of
from stenopool.decoding.ctc.search import BeamSearch
from stenopool.decoding.ctc.viterbi import aligned
from stenopool.engines.ctc import Emissions
from stenopool.errors import TextDoesNotFit, UsageError

SMALL = Alphabet(("", "", "a", "b"), blank=0, delimiter=1)
NONE = HotWords({}, {})


def guesses(frames: int, symbols: int = 4, seed: int = 0) -> Emissions:
    logits = 2 * np.random.default_rng(seed).standard_normal((frames, symbols))
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.float32)


def all_paths(emissions: Emissions) -> dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]]:
    """By what they write: log-probability and path."""
    found: dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]] = {}
    for path in product(range(emissions.shape[1]), repeat=len(emissions)):
        written = tuple(symbol for symbol, _ in groupby(path) if symbol != 0)
        chance = sum(float(emissions[frame, symbol]) for frame, symbol in enumerate(path))
        found.setdefault(written, []).append((chance, path))
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("text", [(2,), (2, 3), (2, 2), (2, 1, 3), (3, 3, 2)])
def test_alignment_is_the_best_of_all_paths_that_write_the_text(
    text: tuple[int, ...], seed: int
) -> None:
    emissions = guesses(6, seed=seed)
    _, best = max(all_paths(emissions)[text])
    assert aligned(emissions, text, 0) == runs(emissions, best, 0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("text", [(2, 1, 3), (2, 1, 2), (3, 1, 2, 2), (2, 1, 3, 1, 2)])
def test_delimiter_may_be_left_out_where_the_model_writes_none(
    text: tuple[int, ...], seed: int
) -> None:
    emissions = guesses(6, seed=seed)
    emissions[:, 1] -= 3 * seed  # less and less probable
    forms: set[tuple[int, ...]] = {()}
    for symbol in text:
        forms = {
            form + more
            for form in forms
            for more in ({(symbol,), ()} if symbol == 1 else {(symbol,)})
        }
    paths = all_paths(emissions)
    _, best = max(one for form in forms for one in paths[form])
    found = aligned(emissions, text, 0, optional=1)
    assert [one for one in found if one.after > one.first] == runs(emissions, best, 0)
    assert [one.symbol for one in found] == list(text)


def test_greedy_symbols_are_their_own_best_alignment() -> None:
    emissions = guesses(200, 20)
    spoken = best_path(emissions, 0)
    assert aligned(emissions, [one.symbol for one in spoken], 0) == spoken


def test_band_and_blocks_find_what_the_whole_lattice_does(monkeypatch: pytest.MonkeyPatch) -> None:
    emissions = guesses(3000, 20)
    symbols = [one.symbol for one in best_path(guesses(800, 20, seed=1), 0)]
    monkeypatch.setattr(viterbi, "BLOCK", 3000)
    whole = aligned(emissions, symbols, 0, band=10**6)
    monkeypatch.setattr(viterbi, "BLOCK", 64)
    assert aligned(emissions, symbols, 0, band=10**6) == whole
    tones = ToneEngine().emissions([spoken("the quick brown fox jumps " * 40)])[0]
    text = ALPHABET.spelled("thequickbrownfoxjumps" * 40)
    narrow = aligned(tones, text, 0, band=512)
    assert narrow == aligned(tones, text, 0, band=10**6)


def test_text_longer_than_the_sound_is_refused() -> None:
    with pytest.raises(TextDoesNotFit, match=r"3 symbols and needs 4 frames; the sound has 3"):
        aligned(guesses(3), [2, 2, 3], 0)
    assert len(aligned(guesses(4), [2, 2, 3], 0)) == 3
    assert aligned(guesses(3), [], 0) == []


@pytest.mark.parametrize("seed", range(5))
def test_beam_search_sums_all_paths_of_a_text(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from stenopool.decoding.ctc import search

    monkeypatch.setattr(search, "LEAST", -100.0)
    monkeypatch.setattr(search, "WORST", 100.0)
    emissions = guesses(6, seed=seed)
    wanted: dict[str, float] = {}
    for written, paths in all_paths(emissions).items():
        words = ("".join(SMALL.symbols[one] for one in word) for word in parted(written))
        text = " ".join(word for word in words if word)
        total = float(np.logaddexp.reduce([chance for chance, _ in paths]))
        wanted[text] = float(np.logaddexp(wanted.get(text, -np.inf), total))
    beam = BeamSearch(SMALL, beam_size=10_000, scorer=None, hot=NONE)
    found = beam.candidates(emissions, most=10)
    best = sorted(wanted, key=lambda text: -wanted[text])[:10]
    assert [one.text for one in found] == best
    assert [one.logprob for one in found] == pytest.approx([wanted[text] for text in best])


def parted(symbols: tuple[int, ...]) -> list[list[int]]:
    return [list(word) for end, word in groupby(symbols, lambda one: one == 1) if not end]


@given(seed=st.integers(0, 10_000), frames=st.integers(0, 40), beam=st.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_candidates_are_in_order_and_differ(seed: int, frames: int, beam: int) -> None:
    hot = HotWords.of("ab:3", SMALL)
    search = BeamSearch(SMALL, beam_size=beam, scorer=None, hot=hot)
    found = search.candidates(guesses(frames, seed=seed), most=5)
    assert found
    assert len({one.text for one in found}) == len(found) <= 5
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert all(SMALL.normalised(one.text) == one.text for one in found)
    for one in found:  # what is written can be aligned
        aligned(guesses(frames, seed=seed), one.symbols, 0)


def test_hot_word_wins_where_the_sound_is_in_doubt() -> None:
    emissions = ToneEngine().emissions([spoken("cat sat")])[0]
    doubt = np.flatnonzero(emissions.argmax(axis=1) == ALPHABET.spelled("c")[0])
    emissions[doubt, ALPHABET.spelled("b")[0]] = np.log(0.2)

    def best(words: str) -> str:
        hot = HotWords.of(words, ALPHABET)
        search = BeamSearch(ALPHABET, beam_size=8, scorer=None, hot=hot)
        return search.candidates(emissions)[0].text

    assert best("") == best("dog") == "cat sat"
    assert best("bat") == best("BAT, dog") == "bat sat"
    assert best("bat:0.1") == "cat sat"


def test_hot_words_are_parsed() -> None:
    found = HotWords.of("Anna, bob:2.5 c:x", ALPHABET)
    assert found.boosts == {"anna": BOOST, "bob": 2.5, "cx": BOOST}
    assert found.beginnings["bo"] == pytest.approx(2.5 * 2 / 3)
    with pytest.raises(UsageError, match="boost"):
        HotWords.of("anna:1000", ALPHABET)
    with pytest.raises(UsageError, match="cannot write"):
        HotWords.of("日本", ALPHABET)


def test_words_have_frames_and_probabilities() -> None:
    emissions = ToneEngine(sure=0.9).emissions([spoken("ab c")])[0]
    first, second = words_of(best_path(emissions, 0), ALPHABET)
    assert (first.first, first.after, second.first, second.after) == (0, 7, 12, 15)
    assert first.probability == pytest.approx(0.9, abs=0.01)


def test_alphabet_without_delimiter_has_words_of_one_symbol() -> None:
    alphabet = Alphabet(("", "日", "本"), blank=0, delimiter=None)
    emissions = np.log(np.array([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], np.float32))
    found = words_of(best_path(emissions, 0), alphabet)
    assert [alphabet.text([one.symbol for one in word.symbols]) for word in found] == ["日", "本"]
    search = BeamSearch(alphabet, beam_size=4, scorer=None, hot=NONE)
    assert search.candidates(emissions)[0].text == "日本"


def test_probability_of_no_speech_is_that_of_the_surest_frame() -> None:
    said, unsaid = (
        ToneEngine(sure=0.9).emissions([sound])[0]
        for sound in (spoken("a"), np.zeros(8000, np.float32))
    )
    assert no_speech_probability(said, ALPHABET) < 0.1
    assert no_speech_probability(unsaid, ALPHABET) > 0.85
    assert no_speech_probability(said[:0], ALPHABET) == 1.0


def test_text_in_the_symbols_of_an_alphabet(tmp_path: Path) -> None:
    vocabulary = {"<pad>": 0, "|": 1, "A": 2, "SCH": 3, "'": 4, "H": 5, "<unk>": 6, "C": 7}
    write_json(tmp_path / "vocab.json", vocabulary)
    write_json(tmp_path / "tokenizer_config.json", {"do_lower_case": False})
    alphabet = Alphabet.read(tmp_path, 8, 0)
    assert alphabet.symbols == ("", "", "A", "SCH", "'", "H", "", "C")
    assert alphabet.spelled("schah’A!") == [3, 2, 5, 4, 2]
    assert alphabet.normalised("ach — a42") == "ACH A"
    assert alphabet.silent == (6,)
