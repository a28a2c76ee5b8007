from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.pipeline import keys

SUFFIXES = (".txt", ".json", ".error.json")

# Names as Linux has them: any bytes but `/` and NUL, at most 255, met with and without sense.
raw = st.binary(min_size=1, max_size=255).map(lambda b: b.replace(b"/", b"_").replace(b"\0", b"_"))
text = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
near_limit = st.builds(
    lambda stem, n: (stem * 255)[:n], st.sampled_from("né🎙"), st.integers(50, 255)
)
names = st.one_of(raw.map(os.fsdecode), text, near_limit).filter(lambda n: len(size(n)) <= 255)


def size(name: str) -> bytes:
    return os.fsencode(name)


def test_names_are_the_documented_ones() -> None:
    key = "input/a/b.c.wav"
    assert keys.output_key(key, "json") == "output/a/b.c.wav.json"
    assert keys.output_key(key, "srt") == "output/a/b.c.wav.srt"
    assert keys.processed_key(key) == "processed/a/b.c.wav"
    assert keys.failed_key(key) == "failed/a/b.c.wav"
    assert keys.record_key(key) == "failed/a/b.c.wav.error.json"
    assert keys.work_folder(key).startswith("work/")


def test_only_the_first_input_is_taken_off() -> None:
    assert keys.processed_key("input/input/a.wav") == "processed/input/a.wav"


@pytest.mark.parametrize(
    "key",
    [
        "input/.hidden.wav",
        "input/.folder/a.wav",
        "input/a/.b/c.wav",
        "input/a.wav.steno.json",
        "input/a.wav.error.json",
    ],
)
def test_other_files_are_no_recordings(key: str) -> None:
    assert not keys.is_recording(key)


@pytest.mark.parametrize("key", ["input/a.wav", "input/a/b", "input/a.json", "input/-x", "input/~"])
def test_any_other_name_is_a_recording(key: str) -> None:
    assert keys.is_recording(key)


def test_name_that_just_fits_is_kept() -> None:
    assert keys.with_suffix("n" * 250, ".json") == "n" * 250 + ".json"


def test_longer_name_is_shortened_and_tagged() -> None:
    shortened = keys.with_suffix("dir/" + "n" * 251, ".json")
    assert shortened == "dir/" + "n" * 233 + "~64091ef053a17b18.json"


def test_folders_are_never_shortened() -> None:
    folder = "f" * 255
    assert keys.with_suffix(f"{folder}/a", ".json") == f"{folder}/a.json"


def test_characters_are_not_cut_in_two() -> None:
    for start in range(4):
        name = "n" * start + "🎙" * 62
        shortened = keys.with_suffix(name, ".error.json")
        assert shortened.encode("utf-8").decode("utf-8") == shortened
        assert set(shortened[start:].partition("~")[0]) == {"🎙"}


def test_input_named_like_a_shortened_one_gets_another_name() -> None:
    for stem in ("n", "🎙"):
        long = (stem * 255)[: 255 // len(stem.encode())]
        for suffix in SUFFIXES:
            imitation = keys.with_suffix(long, suffix).removesuffix(suffix)
            assert keys.with_suffix(imitation, suffix) != imitation + suffix
            again = keys.with_suffix(imitation, suffix).removesuffix(suffix)
            assert len({keys.with_suffix(n, suffix) for n in (long, imitation, again)}) == 3


@given(names, st.sampled_from(SUFFIXES))
def test_result_always_fits_and_ends_as_asked(name: str, suffix: str) -> None:
    result = keys.with_suffix(name, suffix)
    assert len(size(result)) <= 255
    assert result.endswith(suffix)
    assert keys.with_suffix(name, suffix) == result


@given(st.lists(names, unique=True), st.sampled_from(SUFFIXES))
def test_two_names_never_become_one(originals: list[str], suffix: str) -> None:
    shortened = [keys.with_suffix(name, suffix).removesuffix(suffix) for name in originals]
    imitated = [name for name in shortened if name not in originals]
    everything = [*originals, *dict.fromkeys(imitated)]
    assert len({keys.with_suffix(name, suffix) for name in everything}) == len(everything)


@given(names)
def test_work_folder_is_safe_and_its_own(name: str) -> None:
    folder = keys.work_folder(f"input/{name}")
    assert folder.removeprefix("work/").isalnum()
    assert folder != keys.work_folder(f"input/{name}x")
