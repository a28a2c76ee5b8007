"""A loaded model that turns recordings into transcripts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Event

from stenopool import engines
from stenopool.audio.media import Recording
from stenopool.audio.vad import SpeechDetector
from stenopool.audio.windows import Window
from stenopool.decoding import family
from stenopool.decoding.assembly import Assembly, Facts, joined_readings
from stenopool.decoding.batching import REALTIME, USUAL, Batcher, Claim, Reader, side_by_side
from stenopool.decoding.family import Alternation, Alternatives, Running
from stenopool.decoding.listening import Listening
from stenopool.decoding.live import USUAL_TURNS, Live, LiveEvent, TurnDetection
from stenopool.decoding.options import SEQUENTIAL, Options
from stenopool.decoding.readings import Reading
from stenopool.errors import Defect, StenoError, UnsupportedOption
from stenopool.models import DETECTOR, Report, Store
from stenopool.settings import settings
from stenopool.transcript import ModelInfo, Segment, Transcript

RECOGNISERS = 16  # kept
MOST_FILES = 32  # transcribed at the same time

Progress = Callable[[float, float | None], None]
FileProgress = Callable[[Path, float, float | None], None]


class Transcriber:
    """One model, loaded once, for any number of recordings; safe to use from several threads.

    Args:
        model: name of the catalogue or of a registered model, or a folder with a model: Whisper in
            CTranslate2's layout, or wav2vec 2.0 with a CTC head in that of Transformers. `None` is
            the default of this machine.
        engine: name, or `auto`.
        device: `cpu`, `cuda` or `auto`.
        threads: cores to use; 0 is all that this process may use.
        store: where models are; by default the folder of the settings.
        report: told of the progress when a model is pulled.
        attention: of the PyTorch engine: `sdpa`, `eager` or `flash`; empty is that of the settings.
        assistant: a smaller model that drafts what the model then checks (speculative decoding);
            the PyTorch engine only.

    Raises:
        UnknownName, ModelError, EngineError: by name.
        UsageError: the assistant has other tokens than the model, or the engine takes none.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        engine: str = engines.AUTO,
        device: str = engines.AUTO,
        threads: int = 0,
        store: Store | None = None,
        report: Report | None = None,
        attention: str = "",
        assistant: str | Path | None = None,
    ) -> None:
        choice = engines.choose(engine, device, threads, attention)
        store = store or Store()
        self.model = store.resolve(store.default() if model is None else model, report=report)
        if self.model.kind == "vad":
            raise UnsupportedOption(
                f"`{self.model.name}` detects voice activity, it does not transcribe",
                do="Choose another model; `steno models list` shows them",
            )
        self.detector = SpeechDetector(store.resolve(DETECTOR, report=report).weights)
        self.family = family.load(
            self.model,
            choice,
            given=engine != engines.AUTO or device == "cuda",
            assistant=store.resolve(assistant, report=report) if assistant else None,
        )
        self.info = ModelInfo(
            self.model.name, self.model.sha256, self.engine.name, self.engine.precision
        )
        self.batcher = Batcher(self.engine.workers)
        # Windows share a batch only where they share a recogniser, so the last ones are kept.
        self.recogniser = lru_cache(RECOGNISERS)(self._recogniser)
        self.rough_recogniser = lru_cache(RECOGNISERS)(self._rough_recogniser)

    @property
    def engine(self) -> Running:
        """What runs the model."""
        return self.family.engine

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

    def alternatives(
        self, path: str | Path, options: Options | None = None, *, most: int = 5
    ) -> Iterator[Alternatives]:
        """What may have been said in each stretch of a recording, with scores; CTC models only.

        Where speech is cut, both stretches may have a word of the other.

        Args:
            most: candidates of a stretch.

        Raises:
            UnsupportedOption, InputError, EngineError: by name.
        """
        chosen = self.resolved(options or Options())
        return self._alternatives(path, chosen, self.family.alternatives(chosen, most))

    def _alternatives(
        self, path: str | Path, options: Options, found: Alternation
    ) -> Iterator[Alternatives]:
        with self.listen(path, options) as listening:
            for window in listening.windows():
                yield from found(window)

    @contextmanager
    def listen(self, path: str | Path, options: Options) -> Iterator[Listening]:
        """What there is to hear in a recording, window by window.

        Args:
            options: resolved for this model.
        """
        recording = Recording(Path(path), track=options.audio_track, max_hours=settings().max_hours)
        with recording:
            yield Listening(recording, self.detector, self.family, options)

    def read(
        self, windows: Iterable[Window], options: Options, language: str, claim: Claim = USUAL
    ) -> Generator[list[Reading], None, None]:
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
        claim = Claim(REALTIME, owner)
        language = self.family.language(final_options)

        def read(window: Window, *, final: bool) -> Future[list[Reading]]:
            nonlocal language
            if not language.known:
                language = self.family.detected([window])
            reader = self.recogniser if final else self.rough_recogniser
            return self.batcher.submit(reader(final_options, language.code), window, claim)

        return Live(self.detector.live(), read, tell, turns)

    def _recogniser(self, options: Options, language: str) -> Reader:
        return self.family.reader(options, language)

    def _rough_recogniser(self, options: Options, language: str) -> Reader:
        return self.family.rough_reader(options, language)

    def resolved(self, options: Options) -> Options:
        """The options with every choice made for this model.

        Raises:
            UnsupportedOption: the model or the algorithm cannot honour one.
        """
        return self.family.resolved(options)


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
            with closing(self._readings(listening)) as readings:
                for segment in self._assembly.segments(self._told(listening, readings)):
                    given = time.perf_counter()
                    yield segment
                    begun += time.perf_counter() - given  # what the caller does is not ours
            self._facts = listening.facts()
        self._progress(self._facts.duration, self._facts.duration)
        self._wall = time.perf_counter() - begun

    def _readings(self, listening: Listening) -> Generator[Reading, None, None]:
        if self._options.algorithm == SEQUENTIAL:
            pieces = listening.pieces()
            if listening.has_language:  # else nobody spoke
                family, language = self._transcriber.family, listening.language.code
                yield from family.in_sequence(pieces, self._options, language)
            return
        windows = listening.windows()
        if not listening.has_language:
            return
        language = listening.language.code
        begun = self._transcriber.read(windows, self._options, language, self._claim)
        with closing(begun) as read:
            yield from joined_readings(read, self._options)

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
