"""A loaded model that turns recordings into transcripts."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Event

from stenopool import engines
from stenopool.audio.media import Recording
from stenopool.audio.vad import SpeechDetector
from stenopool.audio.windows import Window
from stenopool.decoding.assembly import Assembly, Facts, joined_readings
from stenopool.decoding.batching import REALTIME, USUAL, Batcher, Claim, side_by_side
from stenopool.decoding.language import Language, detected
from stenopool.decoding.languages import AUTO
from stenopool.decoding.listening import Listening
from stenopool.decoding.live import USUAL_TURNS, Live, LiveEvent, TurnDetection
from stenopool.decoding.options import CHUNKED, PACKED, SEQUENTIAL, Options
from stenopool.decoding.readings import Reading
from stenopool.decoding.recognise import Recogniser
from stenopool.decoding.sequential import sequential_readings
from stenopool.decoding.tokens import Vocabulary
from stenopool.errors import Defect, StenoError, UnsupportedOption
from stenopool.models import DETECTOR, Report, Store
from stenopool.settings import settings
from stenopool.transcript import ModelInfo, Segment, Transcript

UNSUITED_ALGORITHM = "unsuited_algorithm"

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
        self,
        path: str | Path,
        options: Options | None = None,
        *,
        progress: Progress | None = None,
        claim: Claim = USUAL,
    ) -> Transcription:
        """Like `transcribe`, but gives the segments as they are ready."""
        chosen = self.resolved(options or Options())
        told = progress or (lambda done, total: None)
        return Transcription(self, Path(path), chosen, told, claim)

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

    @contextmanager
    def listen(self, path: str | Path, options: Options) -> Iterator[Listening]:
        """What there is to hear in a recording, window by window.

        Args:
            options: resolved for this model.
        """
        recording = Recording(Path(path), track=options.audio_track, max_hours=settings().max_hours)
        with recording:
            yield Listening(recording, self.detector, self.engine, options, self.flags_of(options))

    def read(
        self, windows: Iterable[Window], options: Options, language: str, claim: Claim = USUAL
    ) -> Iterator[list[Reading]]:
        """The readings of each window, in order; windows of all callers share batches.

        Args:
            windows: taken as they are needed, of any recordings.
            options: resolved for this model; any but the sequential algorithm.
            language: code of what is spoken.
            claim: whose they are; the lower the priority, the sooner they are read.
        """
        return self.batcher.readings(self.recogniser(options, language), windows, claim)

    def live(
        self,
        options: Options,
        tell: Callable[[LiveEvent], None],
        turns: TurnDetection = USUAL_TURNS,
        owner: str = "",
    ) -> Live:
        """Takes in speech as it is spoken, and tells its text.

        The language is that of the first utterance, where it is not given.

        Raises:
            UnsupportedOption: the model cannot honour an option.
        """
        final_options = self.resolved(options)
        rough = replace(final_options, beam_size=1, temperatures=(0.0,))
        claim = Claim(REALTIME, owner)
        language = Language.given(final_options.language)

        def read(window: Window, *, final: bool) -> Future[list[Reading]]:
            nonlocal language
            if self.engine.multilingual and not language.known:
                language = detected([window], self.engine)
            chosen = final_options if final else rough
            return self.batcher.submit(self.recogniser(chosen, language.code), window, claim)

        return Live(self.detector.live(), read, tell, turns)

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
        self,
        transcriber: Transcriber,
        path: Path,
        options: Options,
        progress: Progress,
        claim: Claim = USUAL,
    ) -> None:
        self._transcriber = transcriber
        self._path = path
        self._options = options
        self._progress = progress
        self._claim = claim
        self._assembly = Assembly(options)
        self._facts: Facts | None = None
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
        if self._error is not None and not isinstance(self._error, GeneratorExit):
            raise self._error
        if self._facts is None:
            raise RuntimeError("this transcription was closed before its end")
        return self._assembly.transcript(self._facts, self._transcriber.info, self._wall)

    def _run(self) -> Iterator[Segment]:
        try:
            yield from self._transcribed()
        except BaseException as error:
            self._error = error
            raise

    def _transcribed(self) -> Iterator[Segment]:
        begun = time.perf_counter()
        with self._transcriber.listen(self._path, self._options) as listening:
            readings = self._told(listening, self._readings(listening))
            for segment in self._assembly.segments(readings):
                given = time.perf_counter()
                yield segment
                begun += time.perf_counter() - given  # what the caller does with it is not ours
            self._facts = listening.facts()
        self._progress(self._facts.duration, self._facts.duration)
        self._wall = time.perf_counter() - begun

    def _readings(self, listening: Listening) -> Iterator[Reading]:
        if self._options.algorithm == SEQUENTIAL:
            pieces = listening.pieces()
            if not listening.has_language:
                return iter(())  # nobody spoke
            recogniser = self._transcriber.recogniser(self._options, listening.language.code)
            return sequential_readings(pieces, recogniser)
        windows = listening.windows()
        if not listening.has_language:
            return iter(())
        language = listening.language.code
        read = self._transcriber.read(windows, self._options, language, self._claim)
        return joined_readings(read, self._options)

    def _told(self, listening: Listening, readings: Iterable[Reading]) -> Iterator[Reading]:
        for reading in readings:
            yield reading
            self._progress(reading.end, listening.claimed_seconds)


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
