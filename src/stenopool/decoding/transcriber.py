"""A loaded model that turns recordings into transcripts."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from threading import Event

from stenopool import engines
from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import WINDOW_SAMPLES
from stenopool.audio.media import Recording
from stenopool.audio.vad import SpeechDetector, VadOptions
from stenopool.audio.windows import Piece, packed, speech_pieces
from stenopool.decoding.batching import Batcher, side_by_side
from stenopool.decoding.chunked import chunked_readings
from stenopool.decoding.language import DETECTION_WINDOWS, Language, detected
from stenopool.decoding.languages import AUTO
from stenopool.decoding.options import CHUNKED, PACKED, SEQUENTIAL, Options
from stenopool.decoding.packed import packed_readings
from stenopool.decoding.quality import LANGUAGE_UNCERTAIN, NO_SPEECH, SPEECH_DROPPED
from stenopool.decoding.readings import Reading, in_order
from stenopool.decoding.recognise import HEARD_SECONDS, Recogniser
from stenopool.decoding.sentences import segments
from stenopool.decoding.sequential import sequential_readings
from stenopool.decoding.tokens import Vocabulary
from stenopool.errors import Defect, StenoError, UnsupportedOption
from stenopool.models import DETECTOR, Report, Store
from stenopool.settings import settings
from stenopool.transcript import Coverage, ModelInfo, Segment, Timing, Transcript

UNSUITED_ALGORITHM = "unsuited_algorithm"
CONTIGUOUS_SILENCE = 2.0  # seconds of silence kept inside speech where windows should be contiguous

RECOGNISERS = 16  # kept
MOST_FILES = 32  # transcribed at the same time

Progress = Callable[[float, float | None], None]
FileProgress = Callable[[Path, float, float | None], None]


class UnsuitedAlgorithm(UserWarning):
    """The model was made for another long-form algorithm and will do worse with this one."""


class Transcriber:
    """One model, loaded once, for any number of recordings; safe to use from several threads.

    Args:
        model: catalogue name, or a folder with a converted model.
        engine: name, or `auto`.
        device: `cpu`, `cuda` or `auto`.
        threads: cores to use; 0 is all that this process may use.
        store: where models are; by default the folder of the settings.
        report: told of the progress when a model is pulled.

    Raises:
        UnknownName, ModelError, EngineError: by name.
    """

    def __init__(
        self,
        model: str | Path = "base",
        *,
        engine: str = engines.AUTO,
        device: str = engines.AUTO,
        threads: int = 0,
        store: Store | None = None,
        report: Report | None = None,
    ) -> None:
        choice = engines.choose(engine, device, threads)
        store = store or Store()
        self.model = store.resolve(model, report=report)
        if self.model.entry and self.model.entry.kind != "whisper":
            raise UnsupportedOption(
                f"`{self.model.name}` detects voice activity, it does not transcribe",
                do="Choose another model; `steno models list` shows them",
            )
        self.detector = SpeechDetector(store.resolve(DETECTOR, report=report).weights)
        self.vocabulary = Vocabulary(self.model.folder / "tokenizer.json")
        self.engine = engines.load(self.model.folder, choice)
        self.info = ModelInfo(
            self.model.name, self.model.sha256, self.engine.name, self.engine.precision
        )
        self.batcher = Batcher(self.engine.workers)
        # Windows share a batch only where they share a recogniser, so the last ones are kept.
        self.recogniser = lru_cache(RECOGNISERS)(self._recogniser)

    def transcribe(
        self, path: str | Path, options: Options | None = None, *, progress: Progress | None = None
    ) -> Transcript:
        """The transcript of one recording.

        Args:
            path: any audio or video file that FFmpeg reads.
            options: see `Options`.
            progress: called with the seconds that are done and the seconds that the file claims to
                have; what it raises stops the transcription.

        Raises:
            UnsupportedOption, InputError, EngineError: by name.
        """
        return self.begin(path, options, progress=progress).transcript()

    def begin(
        self, path: str | Path, options: Options | None = None, *, progress: Progress | None = None
    ) -> Transcription:
        """Like `transcribe`, but gives the segments as they are ready."""
        chosen = self.resolved(options or Options())
        return Transcription(self, Path(path), chosen, progress or (lambda done, total: None))

    def transcribe_many(
        self,
        paths: Iterable[str | Path],
        options: Options | None = None,
        *,
        progress: FileProgress | None = None,
    ) -> Iterator[Transcript | StenoError]:
        """The transcripts of many recordings, in order; several at a time share batches.

        Args:
            paths: taken as they are needed.
            options: see `Options`.
            progress: called with the path and what `transcribe` tells of it, from any thread.

        Yields:
            the transcript, or what is wrong with this recording; a `Defect` has its cause.

        Raises:
            UnsupportedOption: the model cannot honour an option.
        """
        batch_size = self.resolved(options or Options()).batch_size or 1
        stopped = Event()

        def one(path: str | Path) -> Transcript | StenoError:
            def told(done: float, total: float | None) -> None:
                if stopped.is_set():
                    raise RuntimeError("given up")  # nobody waits for what becomes of it
                if progress:
                    progress(Path(path), done, total)

            try:
                return self.transcribe(path, options, progress=told)
            except StenoError as error:
                return error
            except Exception as error:  # noqa: BLE001  one recording must not end the others
                return defect(path, error)

        wanted = self.engine.workers * (batch_size + 1)  # full batches, and one more file each
        threads = min(wanted, MOST_FILES)
        return side_by_side(one, paths, threads=threads, stop=stopped.set)

    def _recogniser(self, options: Options, language: str) -> Recogniser:
        return Recogniser(self.engine, self.vocabulary, options, language)

    def resolved(self, options: Options) -> Options:
        """The options with every choice made for this model.

        Raises:
            UnsupportedOption: the model or the algorithm cannot honour one.
        """
        entry = self.model.entry
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
                f"`{self.model.name}` was made for the {suited} algorithm; {resolved.algorithm} "
                "transcribes worse",
                UnsuitedAlgorithm,
                stacklevel=2,
            )
        return resolved

    def flags_of(self, options: Options) -> list[str]:
        """Doubts that follow from the options alone."""
        entry = self.model.entry
        return (
            [UNSUITED_ALGORITHM] if entry and _unsuited(options.algorithm, entry.algorithm) else []
        )


class Transcription:
    """A recording on its way to text: iterate for its segments, then ask for the transcript."""

    def __init__(
        self, transcriber: Transcriber, path: Path, options: Options, progress: Progress
    ) -> None:
        self._transcriber = transcriber
        self._path = path
        self._options = options
        self._progress = progress
        self._language = Language.given(options.language)
        self._segments: list[Segment] = []
        self._speech = 0.0  # seconds
        self._dropped = 0.0  # seconds
        self._passage_lost = False
        self._duration = 0.0  # seconds
        self._flags = transcriber.flags_of(options)
        self._wall = 0.0  # seconds
        self._error: BaseException | None = None
        self._stream = self._run()

    def __iter__(self) -> Iterator[Segment]:
        return self._stream

    def transcript(self) -> Transcript:
        """The whole transcript; does what is left to do.

        Raises:
            InputError, EngineError: by name; again, if the iteration has raised it before.
            RuntimeError: the iteration was closed before its end.
        """
        for _ in self._stream:
            pass
        if isinstance(self._error, GeneratorExit):
            raise RuntimeError("this transcription was closed before its end")
        if self._error is not None:
            raise self._error
        text = " ".join(segment.text for segment in self._segments)
        dropped = min(self._dropped, self._speech)
        return Transcript(
            text=text,
            language=self._language.code,
            language_probability=self._language.probability,
            task=self._options.task,
            duration=self._duration,
            segments=tuple(self._segments),
            coverage=Coverage(self._speech, self._speech - dropped, dropped),
            model=self._transcriber.info,
            timing=Timing(self._wall, self._wall / self._duration),
            flags=tuple(self._flags),
        )

    def _run(self) -> Iterator[Segment]:
        try:
            yield from self._transcribed()
        except BaseException as error:
            self._error = error
            raise

    def _transcribed(self) -> Iterator[Segment]:
        begun = time.perf_counter()
        with Recording(
            self._path, track=self._options.audio_track, max_hours=settings().max_hours
        ) as recording:
            pieces = self._with_language(self._counted(self._pieces(recording)))
            readings = self._counted_drops(in_order(self._readings(pieces)), recording)
            for segment in segments(readings, keep_words=self._options.word_timestamps):
                self._segments.append(segment)
                given = time.perf_counter()
                yield segment
                begun += time.perf_counter() - given  # what the caller does with it is not ours
            self._duration = recording.seconds
            self._flags += [*recording.flags, *self._doubts()]
        self._progress(self._duration, self._duration)
        self._wall = time.perf_counter() - begun

    def _pieces(self, recording: Recording) -> Iterator[Piece]:
        vad = VadOptions(onset=self._options.vad_threshold)
        if self._options.algorithm != PACKED:
            vad = replace(vad, min_silence=CONTIGUOUS_SILENCE)
        return speech_pieces(recording, self._transcriber.detector, vad, longest=WINDOW_SAMPLES)

    def _counted(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            self._speech += piece.voiced / SAMPLE_RATE
            yield piece

    def _with_language(self, pieces: Iterator[Piece]) -> Iterable[Piece]:
        """The same pieces, after the language was detected on the first of them."""
        engine = self._transcriber.engine
        if self._language.known or not engine.multilingual:
            return pieces
        windows = packed(pieces, WINDOW_SAMPLES)
        first = list(islice(windows, DETECTION_WINDOWS))
        self._language = detected(first, engine)
        # `packed` has taken pieces for windows that it has not given yet.
        rest = (piece for window in windows for piece in window.pieces)
        return chain((piece for window in first for piece in window.pieces), rest)

    def _readings(self, pieces: Iterable[Piece]) -> Iterator[Reading]:
        transcriber = self._transcriber
        if transcriber.engine.multilingual and not self._language.known:
            return iter(())  # nobody spoke
        recogniser = transcriber.recogniser(self._options, self._language.code)
        if self._options.algorithm == SEQUENTIAL:
            return sequential_readings(pieces, recogniser)
        if self._options.algorithm == CHUNKED:
            return chunked_readings(pieces, recogniser, transcriber.batcher)
        return packed_readings(pieces, recogniser, transcriber.batcher)

    def _counted_drops(
        self, readings: Iterable[Reading], recording: Recording
    ) -> Iterator[Reading]:
        for reading in readings:
            self._dropped += reading.dropped_seconds
            # Many small remainders are no loss: a breath at the end of each window.
            self._passage_lost |= reading.dropped_seconds >= HEARD_SECONDS
            yield reading
            self._progress(reading.end, recording.claimed_seconds)

    def _doubts(self) -> Iterator[str]:
        if not self._segments and not self._passage_lost:
            yield NO_SPEECH
        if self._passage_lost:
            yield SPEECH_DROPPED
        if self._speech and self._language.probability < self._options.language_threshold:
            yield LANGUAGE_UNCERTAIN


def defect(path: str | Path, error: Exception) -> Defect:
    """An error that should not be, as the error of a recording."""
    found = Defect(
        f"`{os.fsdecode(path)}`: {type(error).__name__}: {error}",
        do="Please report it, with the traceback above",
    )
    found.__cause__ = error
    return found


def _unsuited(chosen: str, suited: str) -> bool:
    """Packed and sequential windows are both of 30 s; chunked ones suit models that want less."""
    return (chosen == CHUNKED) != (suited == CHUNKED)
