from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import text_tokens
from stenopool.decoding.tokens import PREVIOUS_TOKENS, Vocabulary
from stenopool.errors import ModelDamaged, UnsupportedOption, UsageError

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def vocabulary(models_dir: Path) -> Vocabulary:
    return Vocabulary(models_dir / "tiny.en" / "tokenizer.json")


# --- prompts ----------------------------------------------------------------------------------


def test_special_tokens_are_those_of_the_english_models(vocabulary: Vocabulary) -> None:
    assert vocabulary.end == 50256
    assert vocabulary.start == 50257
    assert vocabulary.previous == 50360
    assert vocabulary.no_timestamps == 50362
    assert vocabulary.first_timestamp == 50363


def test_bare_prompt_is_the_head_alone(vocabulary: Vocabulary) -> None:
    head = vocabulary.head(None, "transcribe")
    assert head == [vocabulary.start]
    assert vocabulary.prompt(head, (), timestamps=True) == head
    assert vocabulary.prompt(head, (), timestamps=False) == [*head, vocabulary.no_timestamps]


def test_multilingual_head_names_language_and_task(vocabulary: Vocabulary) -> None:
    german = vocabulary.head("de", "transcribe")
    assert german[0] == vocabulary.start
    assert len(german) == 3
    assert german[1] != vocabulary.head("en", "transcribe")[1]
    assert german[2] != vocabulary.head("de", "translate")[2]


def test_language_that_the_model_lacks_is_refused_by_name(vocabulary: Vocabulary) -> None:
    with pytest.raises(UnsupportedOption, match="`yue`"):
        vocabulary.head("yue", "transcribe")


def test_prompt_holds_hot_words_then_prompt_then_previous_text(vocabulary: Vocabulary) -> None:
    context = vocabulary.context(" Kubernetes ", " Minutes of the board. ")
    assert vocabulary.text(context) == " Kubernetes Minutes of the board."
    head = vocabulary.head(None, "transcribe")
    previous = text_tokens(vocabulary, "He said so.")
    prompt = vocabulary.prompt(head, context, previous=previous, timestamps=False)
    told = [vocabulary.previous, *context, *previous]
    assert prompt == [*told, *head, vocabulary.no_timestamps]


def test_nothing_to_tell_is_nothing_told(vocabulary: Vocabulary) -> None:
    assert vocabulary.context("", "") == []
    assert vocabulary.context("  ", "\n") == []


def test_only_the_end_of_a_long_previous_text_is_told(vocabulary: Vocabulary) -> None:
    context = vocabulary.context("", "Stenopool.")
    previous = range(1000, 2000)
    prompt = vocabulary.prompt([7], context, previous=previous, timestamps=True)
    room = PREVIOUS_TOKENS - len(context)
    assert prompt == [vocabulary.previous, *context, *previous[-room:], 7]
    assert len(prompt) == 1 + PREVIOUS_TOKENS + 1


def test_full_context_leaves_no_room_for_previous_text(vocabulary: Vocabulary) -> None:
    context = [11] * PREVIOUS_TOKENS
    prompt = vocabulary.prompt([7], context, previous=[1, 2, 3], timestamps=True)
    assert prompt == [vocabulary.previous, *context, 7]


def test_longest_prompt_that_fits_is_accepted_and_one_more_token_refused(
    vocabulary: Vocabulary,
) -> None:
    fits = " ".join(["dog"] * PREVIOUS_TOKENS)
    assert len(vocabulary.context("", fits)) == PREVIOUS_TOKENS
    with pytest.raises(UsageError, match=f"{PREVIOUS_TOKENS + 1} tokens") as error:
        vocabulary.context("dog", fits)
    assert str(PREVIOUS_TOKENS) in error.value.what


# --- text and words ---------------------------------------------------------------------------


def test_timestamps_and_special_tokens_are_no_text(vocabulary: Vocabulary) -> None:
    tokens = text_tokens(vocabulary, "one two")
    first = vocabulary.first_timestamp
    stamped = [first, *tokens[:1], first + 50, first + 50, *tokens[1:], vocabulary.end]
    assert vocabulary.text_tokens(stamped) == list(tokens)
    assert vocabulary.text(stamped) == " one two"


def test_words_begin_with_their_space_and_keep_punctuation(vocabulary: Vocabulary) -> None:
    tokens = text_tokens(vocabulary, "Well, he'd paid $1,000 (half-heartedly).")
    words = [text for text, _ in vocabulary.words(tokens, "en")]
    assert words == [" Well,", " he'd", " paid", " $1,000", " (half-heartedly)."]


def test_characters_of_several_tokens_stay_whole(vocabulary: Vocabulary) -> None:
    tokens = text_tokens(vocabulary, "naïve 🦊𓂀 Straße")
    words = vocabulary.words(tokens, "en")
    assert [text for text, _ in words] == [" naïve", " 🦊𓂀", " Straße"]
    assert dict(words)[" 🦊𓂀"] > 2


def test_languages_without_spaces_have_words_of_one_or_more_characters(
    vocabulary: Vocabulary,
) -> None:
    tokens = text_tokens(vocabulary, "今日はいい天気")
    words = [text for text, _ in vocabulary.words(tokens, "ja")]
    assert len(words) > 3
    assert "�" not in "".join(words)
    assert len(vocabulary.words(tokens, "en")) == 1


@SHARED
@given(st.one_of(st.text(st.characters(max_codepoint=127), max_size=60), ANY_TEXT))
def test_words_joined_are_the_text_and_use_every_token(vocabulary: Vocabulary, text: str) -> None:
    tokens = text_tokens(vocabulary, text)
    for language in ("en", "zh"):
        words = vocabulary.words(tokens, language)
        assert "".join(word for word, _ in words) == vocabulary.text(tokens)
        assert sum(count for _, count in words) == len(tokens)
        assert all(count > 0 for _, count in words)


@SHARED
@given(st.lists(st.integers(0, 50255), max_size=40))
def test_words_of_any_tokens_use_every_token(vocabulary: Vocabulary, tokens: list[int]) -> None:
    words = vocabulary.words(tokens, "en")
    assert sum(count for _, count in words) == len(tokens)


# --- damaged files ----------------------------------------------------------------------------


def test_file_that_is_no_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelDamaged, match=r"`tokenizer\.json`"):
        Vocabulary(tmp_path / "tokenizer.json")


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelDamaged, match=r"`gone\.json`"):
        Vocabulary(tmp_path / "gone.json")


def test_tokenizer_of_another_kind_of_model_is_refused(tmp_path: Path, models_dir: Path) -> None:
    text = (models_dir / "tiny.en" / "tokenizer.json").read_text()
    other = tmp_path / "tokenizer.json"
    other.write_text(text.replace("<|startofprev|>", "<|something|>"))
    with pytest.raises(ModelDamaged, match=r"<\|startofprev\|>"):
        Vocabulary(other)


def test_commands_in_a_prompt_are_only_text(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.context("<|startoftranscript|>", "<|nospeech|> <|endoftext|>")
    assert all(token < vocabulary.end for token in tokens)
    assert vocabulary.text(tokens).split() == [
        "<|startoftranscript|>",
        "<|nospeech|>",
        "<|endoftext|>",
    ]


def test_tokenizer_without_its_first_merge_writes_words_as_the_model_learned_them(
    models_dir: Path, tmp_path: Path
) -> None:
    whole = models_dir / "tiny.en" / "tokenizer.json"
    data = json.loads(whole.read_text(encoding="utf-8"))
    assert data["model"]["merges"].pop(0) in ("Ġ t", ["Ġ", "t"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    text = " They told them the truth about the time"
    mended = Vocabulary(tmp_path / "tokenizer.json").encode(text)
    assert mended == Vocabulary(whole).encode(text)
    assert len(mended) == 8
