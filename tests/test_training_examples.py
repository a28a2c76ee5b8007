"""Which recordings can be trained on, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sounds import tone, write_wav
from stenopool.errors import InputError, InputNotFound, StenoError, UsageError
from stenopool.training.examples import (
    Bad,
    Example,
    data_set,
    evaluation_examples,
    training_examples,
)
from stenopool.training.options import CtcOptions
from stenopool.training.vocabulary import Vocabulary
from trainings import manifest

VOCABULARY = Vocabulary.of(["abcde"])


def frames(samples: int) -> int:
    return samples // 320


def good(folder: Path, id: str = "good") -> dict[str, object]:
    write_wav(folder / "good.wav", tone(1.0))
    return {"id": id, "audio": "good.wav", "text": "ab cd", "duration": 1.0}


def missing(folder: Path) -> dict[str, object]:
    return {"id": "bad", "audio": "nowhere.wav", "text": "ab", "duration": 1.0}


def silent_text(folder: Path) -> dict[str, object]:
    return {**good(folder), "id": "bad", "text": " \t"}


def dense(folder: Path) -> dict[str, object]:
    return {**good(folder), "id": "bad", "text": "a" * 40}


def outside(folder: Path) -> dict[str, object]:
    return {**good(folder), "id": "bad", "text": "abz|"}


def too_long(folder: Path) -> dict[str, object]:
    return {**good(folder), "id": "bad", "duration": 99.0}


def unreadable(folder: Path) -> dict[str, object]:
    (folder / "text.wav").write_text("this is no sound")
    return {"id": "bad", "audio": "text.wav", "text": "ab"}


BAD: dict[Callable[[Path], dict[str, Any]], tuple[type[StenoError], str, str]] = {
    missing: (InputNotFound, "input_not_found", "nowhere.wav"),
    silent_text: (UsageError, "empty_text", "has no text"),
    dense: (UsageError, "text_too_long", "needs 79 frames, and audio of 50"),
    outside: (UsageError, "outside_vocabulary", "'z|'"),
    too_long: (UsageError, "length", "has 99 s"),
    unreadable: (InputError, "not_media", "text.wav"),
}


def found(source: Path, bad: Bad) -> list[Example]:
    return training_examples(data_set(str(source), bad), VOCABULARY, frames, CtcOptions(), bad)


@pytest.mark.parametrize("line", BAD)
def test_first_bad_one_is_named(tmp_path: Path, line: Callable[[Path], dict[str, Any]]) -> None:
    kind, _, said = BAD[line]
    source = manifest(tmp_path, [good(tmp_path), line(tmp_path)])
    with pytest.raises(kind) as caught:
        found(source, Bad(stop=True))
    assert said in str(caught.value)
    assert isinstance(caught.value, StenoError)
    assert caught.value.do


@pytest.mark.parametrize("line", BAD)
def test_bad_one_is_counted_and_the_others_are_used(
    tmp_path: Path, line: Callable[[Path], dict[str, Any]]
) -> None:
    _, reason, said = BAD[line]
    bad = Bad(stop=False)
    source = manifest(tmp_path, [good(tmp_path), line(tmp_path), good(tmp_path, "again")])
    assert [one.id for one in found(source, bad)] == ["good", "again"]
    assert dict(bad.counts) == {reason: 1}
    assert said in bad.reasons[0]


def test_broken_line_is_named_by_its_number(tmp_path: Path) -> None:
    source = manifest(tmp_path, [good(tmp_path)])
    with source.open("a") as file:
        file.write('{"audio": "a.wav", \n')
    with pytest.raises(UsageError, match="line 2: it is no JSON"):
        found(source, Bad(stop=True))
    bad = Bad(stop=False)
    assert len(found(source, bad)) == 1
    assert "line 2" in bad.reasons[0]


def test_length_that_nobody_wrote_down_is_measured(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(1.5, rate=44_100), rate=44_100)
    source = manifest(tmp_path, [{"audio": "a.wav", "text": "ab"}])
    (one,) = found(source, Bad(stop=True))
    assert one.seconds == pytest.approx(1.5, abs=0.01)


def test_evaluation_leaves_out_nothing_that_is_hard(tmp_path: Path) -> None:
    lines = [good(tmp_path), dense(tmp_path), outside(tmp_path), too_long(tmp_path)]
    bad = Bad(stop=True)
    data = data_set(str(manifest(tmp_path, lines)), bad)
    assert len(evaluation_examples(data, VOCABULARY, bad)) == 4


def test_nothing_that_can_be_used_is_an_error_also_where_bad_ones_are_skipped(
    tmp_path: Path,
) -> None:
    source = manifest(tmp_path, [missing(tmp_path)])
    with pytest.raises(UsageError, match="no recording that can be trained on"):
        found(source, Bad(stop=False))


def test_data_is_known_by_its_manifest_and_by_what_lies_behind_it(tmp_path: Path) -> None:
    source = manifest(tmp_path, [good(tmp_path)])
    first = data_set(str(source), Bad(stop=True))
    write_wav(tmp_path / "good.wav", tone(1.1))
    second = data_set(str(source), Bad(stop=True))
    assert first.sha256 == second.sha256
    assert first.listing_sha256 != second.listing_sha256


def test_only_the_first_reasons_are_kept() -> None:
    bad = Bad(stop=False)
    for _ in range(1200):
        bad(UsageError("x", do="y"))
    assert (bad.counts["usage"], len(bad.reasons)) == (1200, 1000)
