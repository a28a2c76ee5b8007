"""wav2vec 2.0 with a CTC head, as the transcriber sees it. See `decoding.family.Family`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import WINDOW_SAMPLES
from stenopool.audio.vad import VadOptions
from stenopool.audio.windows import Piece, Window, packed
from stenopool.decoding.batching import Reader
from stenopool.decoding.ctc.alphabet import Alphabet
from stenopool.decoding.ctc.context import CONTEXT_SAMPLES, own_end, own_start, with_context
from stenopool.decoding.ctc.options import BEAM_SIZE, GREEDY, resolved
from stenopool.decoding.ctc.recognise import CtcModel, CtcRecogniser
from stenopool.decoding.ctc.scorer import Scorer
from stenopool.decoding.family import Alternation, Alternatives
from stenopool.decoding.language import Language
from stenopool.decoding.languages import AUTO, LANGUAGES
from stenopool.decoding.options import Options
from stenopool.decoding.readings import Reading
from stenopool.engines.ctc import CtcEngine
from stenopool.errors import UnsupportedOption
from stenopool.models.files import CONFIG, read_json

PAUSE_SECONDS = 0.6  # that part utterances; shorter ones are heard through
UNNAMED = "und"  # ISO 639-2: the folder does not say which language it is


class CtcFamily:
    """One loaded model.

    Args:
        folder: of the model.
        language: code; `und` if it is not known.
    """

    detects = False

    def __init__(self, model: CtcModel, language: str = UNNAMED) -> None:
        self.model = model
        self.engine = model.engine
        self._language = language

    @classmethod
    def load(cls, folder: Path, engine: CtcEngine) -> CtcFamily:
        """The family of a model whose engine is loaded.

        Raises:
            ModelDamaged, EngineMissing: see `Alphabet` and `Scorer`.
        """
        alphabet = Alphabet.read(folder, engine.symbols, engine.blank)
        return cls(CtcModel(engine, alphabet, Scorer.beside(folder)), _language(folder))

    def resolved(self, options: Options) -> Options:
        if options.language != AUTO and UNNAMED != self._language != options.language:
            raise UnsupportedOption(
                f"this model knows `{self._language}` only, not `{options.language}`",
                do="Leave out `language`, or choose a multilingual model, such as `base`",
            )
        found = resolved(
            options,
            scored=self.model.scorer is not None,
            batch_size=self.engine.batch_size,
        )
        self.reader(found, self._language)  # fails here, before any work, for a hot word
        return found

    def rough_reader(self, options: Options, language: str) -> Reader:
        return self.reader(replace(options, beam_size=GREEDY, hotwords=""), language)

    def flags_of(self, options: Options) -> list[str]:
        return []

    def language(self, options: Options) -> Language:
        return Language(self._language if options.language == AUTO else options.language, 1.0)

    def detected(self, windows: Sequence[Window]) -> Language:
        return Language(self._language, 1.0)

    def vad(self, options: Options) -> VadOptions:
        return VadOptions(onset=options.vad_threshold, min_silence=PAUSE_SECONDS)

    @property
    def longest(self) -> int:
        """Samples of a piece, so that it has room for what it hears of its neighbours."""
        return WINDOW_SAMPLES - 2 * CONTEXT_SAMPLES - SAMPLE_RATE

    def windows(self, pieces: Iterable[Piece], options: Options) -> Iterator[Window]:
        return packed(with_context(pieces, self.engine.stride), WINDOW_SAMPLES)

    def reader(self, options: Options, language: str) -> CtcRecogniser:
        return CtcRecogniser(self.model, options)

    def in_sequence(
        self, pieces: Iterable[Piece], options: Options, language: str
    ) -> Iterator[Reading]:
        raise UnsupportedOption("a CTC model has no sequential algorithm", do="Leave it out")

    def alternatives(self, options: Options, most: int) -> Alternation:
        wide = max(options.beam_size or GREEDY, BEAM_SIZE)
        reader = self.reader(replace(options, beam_size=wide), self._language)

        def found(window: Window) -> list[Alternatives]:
            pairs = zip(window.pieces, reader.candidates(window, most), strict=True)
            return [
                Alternatives(
                    own_start(piece) / SAMPLE_RATE, own_end(piece) / SAMPLE_RATE, tuple(texts)
                )
                for piece, texts in pairs
            ]

        return found


def _language(folder: Path) -> str:
    """As `config.json` says, where somebody has written it there."""
    said = read_json(folder / CONFIG).get("language")
    return said if isinstance(said, str) and said in LANGUAGES else UNNAMED
