"""n-gram models: what Kneser-Ney smoothing promises, the ARPA format, and KenLM beside it."""

from __future__ import annotations

import json
from itertools import product
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctc_models import ALPHABET, ToneEngine, spoken, write_model
from stenopool.cli.scorer import scorer as build
from stenopool.decoding.ctc.hotwords import HotWords
from stenopool.decoding.ctc.kneser_ney import Model, estimated
from stenopool.decoding.ctc.scorer import (
    BEGIN,
    UNKNOWN,
    ArpaModel,
    KenLM,
    Scorer,
    Weights,
    read_ngrams,
)
from stenopool.decoding.ctc.search import BeamSearch
from stenopool.errors import InputNotFound, ModelDamaged, UsageError

TEXT = ["the cat sat", "the dog sat", "a cat ran away", "the cat ran", "san francisco"] * 2


def sentences() -> list[list[str]]:
    return [line.split() for line in TEXT]


def written(model: Model, folder: Path) -> Path:
    file = folder / "scorer.arpa"
    file.write_text("".join(model.arpa()), encoding="utf-8")
    return file


@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8), min_size=1, max_size=30),
    st.integers(1, 4),
)
@settings(deadline=None, max_examples=40)
def test_probabilities_of_every_context_sum_to_one(text: list[list[str]], order: int) -> None:
    model = estimated(text, order)
    table = {
        gram: (log(chance) if chance else -999.0, log(model.backoffs.get(gram) or 1.0))
        for gram, chance in model.probabilities.items()
    }
    arpa = ArpaModel(order, table)
    words = [gram[0] for gram in model.probabilities if len(gram) == 1 and gram[0] != BEGIN]
    contexts = [(), *((word,) for word in words[:3]), (BEGIN,), (BEGIN, words[0])]
    for context in contexts:
        state = context[-(order - 1) :] if order > 1 else ()
        total = sum(exp(arpa.follow(state, word)[0]) for word in words)
        assert total == pytest.approx(1.0)


def test_word_that_follows_one_word_only_is_rare_elsewhere() -> None:
    """Which is what Kneser and Ney are for: `francisco` is seen as often as `cat` is."""
    text = [*([["san", "francisco"]] * 4), ["a", "cat"], ["the", "cat"], ["my", "cat"], ["cat"]]
    model = estimated(text, 2)
    assert model.probabilities[("cat",)] > 2 * model.probabilities[("francisco",)]
    assert model.probabilities[("san", "francisco")] > 0.6


def test_bigram_by_hand() -> None:
    """Two sentences; discounts are the usual ones, for there is too little text."""
    model = estimated([["a", "b"], ["a", "c"]], 2)
    # Unigrams count what they follow: a follows <s>; b and c follow a; </s> follows b and c.
    unigram = {"a": 0.5, "b": 0.5, "c": 0.5, "</s>": 1.0}  # 1 - 0.5; 2 - 1.0
    share = (0.5 + 0.5 + 0.5 + 1.0) / 5 / 5  # of five words, with the unknown one
    for word, own in unigram.items():
        assert model.probabilities[(word,)] == pytest.approx(own / 5 + share)
    assert model.probabilities[(UNKNOWN,)] == pytest.approx(share)
    # After `a`: b and c once each, 0.5 taken of each, so half goes to the unigrams.
    wanted = 0.5 / 2 + 0.5 * model.probabilities[("b",)]
    assert model.probabilities[("a", "b")] == pytest.approx(wanted)
    assert model.backoffs[("a",)] == pytest.approx(0.5)


def test_text_without_words_is_refused() -> None:
    with pytest.raises(UsageError):
        estimated([[], ["<s>"]], 3)
    with pytest.raises(UsageError):
        estimated([["a"]], 11)


def test_arpa_file_gives_the_same_back(tmp_path: Path) -> None:
    model = estimated(sentences(), 3)
    arpa = ArpaModel.read(written(model, tmp_path))
    assert arpa.order == 3
    assert set(arpa.table) == set(model.probabilities)
    state = (BEGIN, "the")
    assert arpa.follow(state, "cat")[0] == pytest.approx(
        log(model.probabilities[(BEGIN, "the", "cat")]), abs=1e-5
    )
    unseen = model.backoffs[("cat",)] * model.probabilities[("dog",)]
    assert arpa.follow(("a", "cat"), "dog")[0] == pytest.approx(
        log(unseen * model.backoffs[("a", "cat")]), abs=1e-5
    )
    assert (arpa.knows("cat"), arpa.knows("cow"), arpa.knows(UNKNOWN)) == (True, False, False)
    assert (arpa.may_become("fran"), arpa.may_become("cow")) == (True, False)


def test_kenlm_reads_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    file = written(estimated(sentences(), 3), tmp_path)
    ours, theirs = ArpaModel.read(file), KenLM(file)
    words = ["the", "cat", "zebra", "ran", "sat"]
    for said in product(words, repeat=3):
        one, other = ours.begin(), theirs.begin()
        for word in said:
            mine, one = ours.follow(one, word)
            found, other = theirs.follow(other, word)
            assert mine == pytest.approx(found, abs=1e-4)
    assert (theirs.knows("cat"), theirs.knows("zebra"), theirs.may_become("z")) == (1, 0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no model",
        "\\data\\\nngram 1=1\n\n\\1-grams:\n-1\ta\n",
        "\\1-grams:\n-1\ta\tb\tc\n\\end\\\n",
        "\\1-grams:\nx\ta\n\\end\\\n",
        "\\1-grams:\nnan\ta\n\\end\\\n",
        "\\1-grams:\n0.5\ta\n\\end\\\n",
        "\\2-grams:\n-1\ta b\n\\end\\\n",
        "\\data\\\n\\end\\\n",
    ],
)
def test_damaged_scorer_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "scorer.arpa"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ModelDamaged, match=r"scorer\.arpa"):
        read_ngrams(file)


def test_scorer_beside_a_model(tmp_path: Path) -> None:
    assert Scorer.beside(tmp_path) is None
    written(estimated(sentences(), 2), tmp_path)
    (tmp_path / "scorer.json").write_text('{"alpha": 0.7}', encoding="utf-8")
    found = Scorer.beside(tmp_path)
    assert found is not None
    assert found.weights == Weights(alpha=0.7)
    for wrong in ('{"gamma": 1}', '{"alpha": "x"}', '{"alpha": 1e999}', "[]"):
        (tmp_path / "scorer.json").write_text(wrong, encoding="utf-8")
        with pytest.raises(ModelDamaged):
            Scorer.beside(tmp_path)


def test_scorer_chooses_the_words_that_go_together(tmp_path: Path) -> None:
    emissions = ToneEngine().emissions([spoken("the bat sat")])[0]
    doubt = np.flatnonzero(emissions.argmax(axis=1) == ALPHABET.spelled("b")[0])
    emissions[doubt, ALPHABET.spelled("c")[0]] = log(0.3)
    ngrams = ArpaModel.read(written(estimated(sentences(), 3), tmp_path))
    none = HotWords({}, {})
    for scorer, text in ((None, "the bat sat"), (Scorer(ngrams, Weights()), "the cat sat")):
        search = BeamSearch(ALPHABET, beam_size=16, scorer=scorer, hot=none)
        assert search.candidates(emissions)[0].text == text
    hot = HotWords.of("bat", ALPHABET)  # which the scorer does not know
    search = BeamSearch(ALPHABET, beam_size=16, scorer=Scorer(ngrams, Weights()), hot=hot)
    assert search.candidates(emissions)[0].text == "the bat sat"


def test_command_builds_a_scorer_in_the_symbols_of_the_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    text = tmp_path / "text.txt"
    text.write_text("The CAT, sat!\n\n1234\nThe cat ran.\n", encoding="utf-8")
    manifest = tmp_path / "more.jsonl"
    rows = [{"id": "1", "audio": "a.wav", "text": "a dog ran"}]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    build(texts=[text, manifest], model=model, output=None, order=2, alpha=1.5, beta=None)
    found = Scorer.beside(model)
    assert found is not None
    assert isinstance(found.ngrams, ArpaModel)
    assert found.ngrams.knows("dog")
    assert ("the", "cat") in found.ngrams.table
    assert found.weights == Weights(alpha=1.5)
    with pytest.raises(InputNotFound):
        build(texts=[tmp_path / "no"], model=model, output=None, order=2, alpha=None, beta=None)
