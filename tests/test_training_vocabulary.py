from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.errors import InputUnreadable, UsageError
from stenopool.training.vocabulary import Vocabulary, frames_needed


def test_vocabulary_is_the_characters_of_the_texts_and_three_more() -> None:
    found = Vocabulary.of(["one two", "né"])
    assert list(found.numbers) == [*sorted("onetwé"), "|", "[UNK]", "[PAD]"]
    assert found.blank == len(found) - 1


@given(st.text())
def test_labels_of_its_own_text_are_never_unknown(text: str) -> None:
    text = text.replace("|", "")
    found = Vocabulary.of([text])
    assert found.numbers["[UNK]"] not in found.labels(text)
    assert found.outside(text) == []


def test_space_is_the_delimiter_and_a_written_delimiter_is_unknown() -> None:
    found = Vocabulary.of(["a b"])
    assert found.labels("a b") == (0, found.numbers["|"], 1)
    assert found.labels("|") == (found.numbers["[UNK]"],)
    assert found.outside("a|z") == ["|", "z"]


def test_vocabulary_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = Vocabulary.of(["käse und brot"])
    (tmp_path / "vocab.json").write_text(found.document(), encoding="utf-8")
    assert Vocabulary.read(tmp_path / "vocab.json") == found


def test_names_that_other_models_have_are_known() -> None:
    found = Vocabulary({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "E": 5})
    assert (found.blank, found.pad, found.unknown) == (0, "<pad>", "<unk>")
    assert found.labels("E e") == (5, 4, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is no vocabulary"),
        ('{"a": "b"}', "is no vocabulary"),
        ('{"a": true}', "is no vocabulary"),
        ('{"a": 0, "|": 1, "[UNK]": 2, "[PAD]": 4}', "its numbers are not 0 to 3"),
        ('{"a": 0, "|": 1, "[PAD]": 2}', r"it has no \[UNK\]"),
    ],
)
def test_file_that_is_no_vocabulary_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "vocab.json").write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        Vocabulary.read(tmp_path / "vocab.json")
    assert "vocab.json" in str(caught.value)


def test_vocabulary_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputUnreadable, match="nowhere"):
        Vocabulary.read(tmp_path / "nowhere.json")


@pytest.mark.parametrize(("text", "frames"), [("", 0), ("abc", 3), ("ebb", 4), ("aaa", 5)])
def test_ctc_needs_a_blank_between_equal_letters(text: str, frames: int) -> None:
    assert frames_needed(Vocabulary.of([text]).labels(text)) == frames


def test_document_is_what_transformers_reads(tmp_path: Path) -> None:
    assert json.loads(Vocabulary.of(["ab"]).document()) == {
        "a": 0,
        "b": 1,
        "|": 2,
        "[UNK]": 3,
        "[PAD]": 4,
    }
