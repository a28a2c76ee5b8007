from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import PACE, Asked, FakeEngine, said, settled, spoken, story, text_of
from stenopool.audio.features import WINDOW_SAMPLES
from stenopool.audio.windows import Piece, packed
from stenopool.decoding.assembly import joined_readings
from stenopool.decoding.batching import Batcher
from stenopool.decoding.readings import Reading
from stenopool.decoding.recognise import Recogniser
from stenopool.decoding.tokens import Vocabulary

EIGHT = 8 * PACE  # seconds of a piece


@pytest.fixture(scope="module")
def vocabulary(models_dir: Path) -> Vocabulary:
    return Vocabulary(models_dir / "tiny.en" / "tokenizer.json")


def recogniser(vocabulary: Vocabulary, engine: FakeEngine, batch_size: int = 2) -> Recogniser:
    return Recogniser(engine, vocabulary, settled(batch_size=batch_size), "en")


def packed_readings(
    given: Iterable[Piece], reader: Recogniser, batcher: Batcher
) -> Iterator[Reading]:
    read = batcher.readings(reader, packed(given, WINDOW_SAMPLES))
    return joined_readings(read, reader.options)


def pieces(count: int, *, apart: float = 2.0) -> Iterator[Piece]:
    """Four seconds of speech each, with as many seconds of silence as is said."""
    words = story(8 * count)
    for number in range(count):
        part = words[8 * number : 8 * number + 8]
        yield spoken(said(part), at=number * (EIGHT + apart))


def test_pieces_are_packed_into_full_windows_and_read_in_order(vocabulary: Vocabulary) -> None:
    engine = FakeEngine(vocabulary, workers=2)
    readings = list(packed_readings(pieces(20), recogniser(vocabulary, engine), Batcher(2)))
    assert text_of(readings) == story(160)
    assert sorted(len(asked.words) for asked in engine.asked) == [48, 56, 56]
    assert sum(engine.batches) == 3


def test_words_have_times_of_the_recording(vocabulary: Vocabulary) -> None:
    engine = FakeEngine(vocabulary)
    readings = packed_readings(pieces(9), recogniser(vocabulary, engine), Batcher(1))
    starts = [word.start for reading in readings for word in reading.words]
    expected = [n * (EIGHT + 2.0) + PACE * word for n in range(9) for word in range(8)]
    np.testing.assert_allclose(starts, expected, atol=0.06)


def test_batches_are_decoded_side_by_side(vocabulary: Vocabulary) -> None:
    together = threading.Barrier(2, timeout=20)  # breaks where one batch waits for the other

    def script(asked: Asked) -> None:
        together.wait()

    engine = FakeEngine(vocabulary, script, workers=2)
    readings = packed_readings(pieces(14), recogniser(vocabulary, engine, 1), Batcher(2))
    assert text_of(readings) == story(112)


def test_no_speech_gives_no_reading(vocabulary: Vocabulary) -> None:
    engine = FakeEngine(vocabulary)
    assert list(packed_readings([], recogniser(vocabulary, engine), Batcher(2))) == []
    assert engine.batches == []


def test_first_reading_is_there_before_all_pieces_are_taken(vocabulary: Vocabulary) -> None:
    taken: list[Piece] = []

    def counted() -> Iterator[Piece]:
        for piece in pieces(100):
            taken.append(piece)
            yield piece

    engine = FakeEngine(vocabulary)
    readings = packed_readings(counted(), recogniser(vocabulary, engine, 1), Batcher(1))
    assert not taken
    assert isinstance(next(readings), Reading)
    assert len(taken) < 30
    readings.close()  # type: ignore[attr-defined]


@settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.integers(1, 50), max_size=8), st.integers(1, 3), st.integers(1, 2))
def test_no_word_is_lost_whatever_the_pieces(
    vocabulary: Vocabulary, counts: list[int], batch_size: int, workers: int
) -> None:
    words = story(sum(counts))
    given_pieces, at = [], 0
    for count in counts:
        given_pieces.append(spoken(said(words[at : at + count]), at=at * PACE * 2))
        at += count
    reader = recogniser(vocabulary, FakeEngine(vocabulary), batch_size)
    assert text_of(packed_readings(given_pieces, reader, Batcher(workers))) == words
