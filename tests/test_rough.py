"""Readings of speech that goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fakes import FakeEngine, Script, settled, story, text_of, window_of
from stenopool.audio.features import FRAMES_PER_SECOND, Features
from stenopool.decoding.readings import Reading
from stenopool.decoding.rough import SPARE_TOKENS, TOKENS_PER_SECOND, RoughRecogniser
from stenopool.decoding.tokens import Vocabulary
from stenopool.engines.base import Encoded
from stenopool.transcript import Word

LOOP = " ".join(["stone"] * 9)


@dataclass
class Noting(FakeEngine):
    """Notes the frames of what it encodes."""

    frames: list[int] = field(default_factory=list)

    def encode(self, features: Features) -> Encoded:
        self.frames.append(features.shape[2])
        return super().encode(features)


@pytest.fixture(scope="module")
def vocabulary(models_dir: Path) -> Vocabulary:
    return Vocabulary(models_dir / "tiny.en" / "tokenizer.json")


def read(
    vocabulary: Vocabulary, said: list[str], script: Script = lambda asked: None
) -> tuple[Reading, Noting]:
    engine = Noting(vocabulary, script)
    reader = RoughRecogniser(engine, vocabulary, settled(beam_size=1, temperatures=(0.0,)), "en")
    ((reading,),) = reader.read([window_of(said)])
    return reading, engine


def test_short_speech_is_read_once_as_a_short_window(vocabulary: Vocabulary) -> None:
    said = story(12)  # 6 s
    reading, engine = read(vocabulary, said)
    assert text_of([reading]) == said
    assert engine.frames == [engine.short_frames]
    assert len(engine.asked) == 1
    most = SPARE_TOKENS + round(TOKENS_PER_SECOND * window_of(said).seconds)
    assert engine.asked[0].search.max_tokens == most


def test_longer_speech_is_a_whole_window(vocabulary: Vocabulary) -> None:
    said = story(40)  # 20 s
    assert window_of(said).seconds > FakeEngine.short_frames / FRAMES_PER_SECOND
    reading, engine = read(vocabulary, said)
    assert text_of([reading]) == said
    assert engine.frames == [3000]


def test_what_is_refused_is_read_once_more_as_a_whole_window(vocabulary: Vocabulary) -> None:
    said = story(12)
    reading, engine = read(vocabulary, said, lambda asked: LOOP if asked.call == 0 else None)
    assert text_of([reading]) == said
    assert engine.frames == [engine.short_frames, 3000]


def test_what_is_refused_twice_has_no_words(vocabulary: Vocabulary) -> None:
    reading, engine = read(vocabulary, story(12), lambda asked: LOOP)
    assert reading.words == tuple[Word]()
    assert len(engine.asked) == 2
