"""Whisper, as the transcriber sees it. See `family.Family`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from stenopool.audio.features import WINDOW_SAMPLES
from stenopool.audio.vad import VadOptions
from stenopool.audio.windows import Piece, Window, packed
from stenopool.decoding.batching import Reader
from stenopool.decoding.chunked import chunk_samples, overlapping
from stenopool.decoding.family import Alternation
from stenopool.decoding.language import Language, detected
from stenopool.decoding.languages import AUTO
from stenopool.decoding.options import CHUNKED, PACKED, Options
from stenopool.decoding.readings import Reading
from stenopool.decoding.recognise import Recogniser
from stenopool.decoding.refine import Refined, configured
from stenopool.decoding.rough import RoughRecogniser
from stenopool.decoding.sequential import sequential_readings
from stenopool.decoding.tokens import Vocabulary
from stenopool.engines.base import Engine
from stenopool.errors import UnsupportedOption
from stenopool.models import LocalModel

UNSUITED_ALGORITHM = "unsuited_algorithm"
CONTIGUOUS_SILENCE = 2.0  # seconds of silence kept inside speech where windows should be contiguous


class UnsuitedAlgorithm(UserWarning):
    """The model was made for another long-form algorithm and will do worse with this one."""


class WhisperFamily:
    """One loaded model."""

    longest = WINDOW_SAMPLES

    def __init__(self, engine: Engine, vocabulary: Vocabulary, model: LocalModel) -> None:
        self.engine = engine
        self.vocabulary = vocabulary
        self._name, self._entry = model.name, model.entry
        self._aligner = configured()

    @classmethod
    def load(cls, model: LocalModel, engine: Engine) -> WhisperFamily:
        """The family of a model whose engine is loaded.

        Raises:
            ModelDamaged: its tokenizer is none of Whisper's.
        """
        return cls(engine, Vocabulary(model.folder / "tokenizer.json"), model)

    @property
    def detects(self) -> bool:
        return self.engine.multilingual

    def resolved(self, options: Options) -> Options:
        entry = self._entry
        suited = entry.algorithm if entry else PACKED
        resolved = options.resolved(
            algorithm=suited,
            chunk_seconds=entry.chunk_seconds if entry else None,
            multilingual=self.engine.multilingual,
            beam_size=self.engine.beam_size,
            batch_size=self.engine.batch_size,
        )
        # Fail here, before any work, where a prompt is too long or a language unknown.
        self.vocabulary.context(resolved.hotwords, resolved.initial_prompt)
        if self.engine.multilingual and resolved.language != AUTO:
            self.vocabulary.head(resolved.language, resolved.task)
        if self.flags_of(resolved):
            warnings.warn(
                f"`{self._name}` was made for the {suited} algorithm; {resolved.algorithm} "
                "transcribes worse",
                UnsuitedAlgorithm,
                stacklevel=3,
            )
        return resolved

    def rough_reader(self, options: Options, language: str) -> Reader:
        greedy = replace(options, beam_size=1, temperatures=(0.0,))
        return RoughRecogniser(self.engine, self.vocabulary, greedy, language)

    def flags_of(self, options: Options) -> list[str]:
        entry = self._entry
        return (
            [UNSUITED_ALGORITHM] if entry and _unsuited(options.algorithm, entry.algorithm) else []
        )

    def language(self, options: Options) -> Language:
        return Language.given(options.language)

    def detected(self, windows: Sequence[Window]) -> Language:
        return detected(windows, self.engine)

    def vad(self, options: Options) -> VadOptions:
        found = VadOptions(onset=options.vad_threshold)
        if options.algorithm != PACKED:
            return replace(found, min_silence=CONTIGUOUS_SILENCE)
        return found

    def windows(self, pieces: Iterable[Piece], options: Options) -> Iterator[Window]:
        if options.algorithm == CHUNKED:
            return overlapping(pieces, chunk_samples(options))
        return packed(pieces, WINDOW_SAMPLES)

    def reader(self, options: Options, language: str) -> Reader:
        recogniser = Recogniser(self.engine, self.vocabulary, options, language)
        return Refined(recogniser, self._aligner) if self._aligner else recogniser

    def in_sequence(
        self, pieces: Iterable[Piece], options: Options, language: str
    ) -> Iterator[Reading]:
        recogniser = Recogniser(self.engine, self.vocabulary, options, language)
        return sequential_readings(pieces, recogniser)

    def alternatives(self, options: Options, most: int) -> Alternation:
        raise UnsupportedOption(
            f"`{self._name}` tells one text, no candidates", do="Choose a CTC model"
        )


def _unsuited(chosen: str, suited: str) -> bool:
    """Packed and sequential windows are both of 30 s; chunked ones suit models that want less."""
    return (chosen == CHUNKED) != (suited == CHUNKED)
