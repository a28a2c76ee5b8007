from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.decoding.options import ALGORITHMS, CHUNKED, PACKED, SEQUENTIAL, Options
from stenopool.errors import UnknownName, UnsupportedOption, UsageError


def resolved(options: Options, **model: Any) -> Options:
    return options.resolved(
        **{
            "algorithm": PACKED,
            "chunk_seconds": None,
            "multilingual": True,
            "beam_size": 3,
            "batch_size": 4,
            **model,
        }
    )


def test_every_option_is_documented_once() -> None:
    described = [line.split(":")[0].strip() for line in (Options.__doc__ or "").splitlines()]
    for entry in fields(Options):
        assert described.count(entry.name) == 1, entry.name


def test_every_option_has_a_default_that_is_accepted() -> None:
    assert Options() == Options.of()


def test_options_are_values() -> None:
    assert Options(beam_size=1) == Options(beam_size=1)
    assert len({Options(beam_size=1), Options(beam_size=1)}) == 1
    with pytest.raises(FrozenInstanceError):
        Options().beam_size = 2  # type: ignore[misc]


def test_unknown_option_is_refused_by_name_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedOption, match="`beam_width`") as error:
        Options.of(beam_width=5)
    assert all(entry.name in error.value.do for entry in fields(Options))


def test_language_is_kept_as_its_code() -> None:
    assert Options(language="German").language == "de"
    assert Options().language == "auto"


@pytest.mark.parametrize(
    ("name", "value"),
    [("task", "summarise"), ("algorithm", "fast"), ("language", "klingon")],
)
def test_unknown_choice_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UnknownName, match=f"unknown {name}: `{value}`") as error:
        Options.of(**{name: value})
    assert error.value.do


BAD = {
    "beam_size": (0, 33, -1, math.nan, 2.5, "5", True, 10**400),
    "batch_size": (0, 65, 1.5, "8"),
    "chunk_seconds": (4.9, 30.1, math.nan, math.inf, "ten"),
    "vad_threshold": (0.0, 1.0, math.nan, None),
    "language_threshold": (-0.1, 1.1, math.nan),
    "compression_ratio_threshold": (-1.0, math.nan, "high"),
    "logprob_threshold": (0.5, math.nan),
    "no_speech_threshold": (-0.1, 1.1, math.nan),
    "audio_track": (-1, 1001, 0.5),
    "initial_prompt": (None, 5),
    "hotwords": (None, ["Stenopool"]),
    "temperatures": ((), None, (-0.1,), (2.1,), (0.0, math.nan), ("warm",)),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_bad_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"`{name}`") as error:
        Options.of(**{name: value})
    assert type(error.value) is UsageError
    assert error.value.do


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beam_size", 1),
        ("beam_size", 32),
        ("batch_size", 64),
        ("chunk_seconds", 5),
        ("chunk_seconds", 30.0),
        ("audio_track", 0),
        ("language_threshold", 0),
        ("no_speech_threshold", 1.0),
        ("compression_ratio_threshold", math.inf),
        ("logprob_threshold", -math.inf),
        ("temperatures", (0.0, 2.0)),
    ],
)
def test_values_at_the_border_are_accepted(name: str, value: object) -> None:
    assert getattr(Options.of(**{name: value}), name) == value


@given(st.integers())
def test_beam_size_is_what_was_asked_for_or_refused(size: int) -> None:
    if 1 <= size <= 32:
        assert resolved(Options(beam_size=size)).beam_size == size
    else:
        with pytest.raises(UsageError, match="`beam_size`"):
            Options(beam_size=size)


def test_temperatures_may_come_as_a_list_or_a_number() -> None:
    assert Options.of(temperatures=[0.0, 0.5]).temperatures == (0.0, 0.5)
    assert Options.of(temperatures=0).temperatures == (0,)


# --- resolved for a model ---------------------------------------------------------------------


@pytest.mark.parametrize("suited", ALGORITHMS)
def test_auto_is_the_algorithm_that_suits_the_model(suited: str) -> None:
    assert resolved(Options(), algorithm=suited).algorithm == suited


def test_a_chosen_algorithm_stays() -> None:
    assert resolved(Options(algorithm=SEQUENTIAL), algorithm=CHUNKED).algorithm == SEQUENTIAL


def test_nothing_is_left_open() -> None:
    options = resolved(Options())
    assert (options.beam_size, options.batch_size, options.chunk_seconds) == (3, 4, 30.0)
    assert options.condition_on_previous_text is False


def test_chunk_length_is_the_users_or_the_models() -> None:
    chosen = resolved(Options(chunk_seconds=7), algorithm=CHUNKED, chunk_seconds=15.0)
    assert chosen.chunk_seconds == 7
    assert resolved(Options(), algorithm=CHUNKED, chunk_seconds=15.0).chunk_seconds == 15.0


@pytest.mark.parametrize(
    ("algorithm", "name", "value"),
    [
        (PACKED, "condition_on_previous_text", True),
        (CHUNKED, "condition_on_previous_text", True),
        (PACKED, "chunk_seconds", 15),
        (SEQUENTIAL, "chunk_seconds", 15),
        (SEQUENTIAL, "batch_size", 4),
    ],
)
def test_option_that_the_algorithm_cannot_honour_is_refused_by_name(
    algorithm: str, name: str, value: object
) -> None:
    for options, suited in (
        (Options.of(algorithm=algorithm, **{name: value}), PACKED),
        (Options.of(**{name: value}), algorithm),
    ):
        with pytest.raises(UnsupportedOption, match=f"{algorithm} .*`{name}`") as error:
            resolved(options, algorithm=suited)
        assert "algorithm" in error.value.do


@pytest.mark.parametrize(
    ("algorithm", "name", "value"),
    [
        (SEQUENTIAL, "condition_on_previous_text", True),
        (CHUNKED, "chunk_seconds", 15),
        (CHUNKED, "batch_size", 4),
        (PACKED, "batch_size", 4),
    ],
)
def test_option_that_the_algorithm_honours_is_kept(
    algorithm: str, name: str, value: object
) -> None:
    options = resolved(Options.of(algorithm=algorithm, **{name: value}))
    assert getattr(options, name) == value


def test_english_only_model_refuses_to_translate() -> None:
    with pytest.raises(UnsupportedOption, match="cannot translate"):
        resolved(Options(task="translate"), multilingual=False)


def test_english_only_model_refuses_another_language_by_name() -> None:
    with pytest.raises(UnsupportedOption, match="`de`"):
        resolved(Options(language="de"), multilingual=False)


@pytest.mark.parametrize("language", ["auto", "en", "English"])
def test_english_only_model_takes_english(language: str) -> None:
    assert resolved(Options(language=language), multilingual=False).language == "en"


def test_multilingual_model_leaves_the_language_to_be_detected() -> None:
    assert resolved(Options()).language == "auto"


def test_no_language_is_to_be_detected() -> None:
    assert Options.of(language=None).language == "auto"


@pytest.mark.parametrize("name", ["word_timestamps", "condition_on_previous_text"])
@pytest.mark.parametrize("value", ["no", 0, 1.0])
def test_switch_is_true_or_false(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"`{name}`"):
        Options.of(**{name: value})


@pytest.mark.parametrize("name", ["initial_prompt", "hotwords"])
def test_text_that_is_not_utf_8_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"`{name}` is not UTF-8"):
        Options.of(**{name: "\udcff"})
