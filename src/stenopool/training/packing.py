"""From transcripts to windows: pieces of one speaker together, as many as fit into 30 s."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from stenopool.audio.features import WINDOW_SECONDS
from stenopool.data import Recording
from stenopool.decoding.tokens import Vocabulary
from stenopool.training.labels import LabelledWindow, Passage, Stretch, timestamped
from stenopool.transcript import Segment, Transcript

PAUSE_SECONDS = 1.0  # between segments of a long recording: what is longer is cut out
PAD_SECONDS = 0.2  # kept on either side of a segment


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one recording and its segments, whose times are seconds in the stretch.

    Attributes:
        group: pieces of different groups are not put together.
        whole: it is a whole file.
    """

    recording: Recording
    stretch: Stretch
    passages: tuple[Passage, ...]
    reference: str | None
    language: str | None
    group: str
    whole: bool

    @property
    def text(self) -> str:
        return " ".join(one.text for one in self.passages)


def pieces(recording: Recording, transcript: Transcript, place: int) -> list[Piece]:
    """What of a recording can go into a window; nothing where nobody speaks.

    A recording that fits is one piece. A long one is cut between segments, and loses its pauses.

    Args:
        place: number of the recording; those of which nobody knows the speaker stay apart by it.
    """
    said = [one for one in transcript.segments if one.text.strip()]
    if not said:
        return []
    speaker = recording.speaker
    group = f"recording {place}" if speaker is None else f"speaker {speaker}"
    language = recording.language or transcript.language or None
    group += f", {language}"
    if transcript.duration <= WINDOW_SECONDS:
        found = Stretch(recording.audio, 0.0, round(transcript.duration, 4))
        passages = _passages(said, found)
        text = recording.text
        return [Piece(recording, found, passages, text, language, group, whole=True)]
    runs = list(_runs(said))
    stretches = _stretches(runs, recording, transcript.duration)
    spoken = [" ".join(one.text.strip() for one in run) for run in runs]
    references = parted(recording.text, spoken)
    return [
        Piece(recording, stretch, _passages(run, stretch), reference, language, group, whole=False)
        for run, stretch, reference in zip(runs, stretches, references, strict=True)
        if 0 < stretch.seconds <= WINDOW_SECONDS
    ]


def packed(
    found: Iterable[Piece], vocabulary: Vocabulary | None, tokenizer: str
) -> Iterator[LabelledWindow]:
    """Windows of consecutive pieces of one speaker, each as full as 30 s allow.

    Args:
        vocabulary: of the teacher, for the tokens; `None` where it is no Whisper model.
        tokenizer: see `LabelledWindow`.
    """
    previous: tuple[str, str] | None = None  # group and id of the window before
    taken: dict[str, int] = {}
    for held in _together(found):
        first = held[0].recording.id if len(held) == 1 else f"{held[0].recording.id}+{len(held)}"
        taken[first] = taken.get(first, 0) + 1
        id = first if taken[first] == 1 else f"{first}#{taken[first]}"
        group = held[0].group
        before = previous[1] if previous and previous[0] == group else None
        yield _window(id, held, before, vocabulary, tokenizer)
        previous = (group, id)


def parted(reference: str | None, spoken: Sequence[str]) -> list[str | None]:
    """The given text of a recording, cut where the transcript is cut.

    The words of both are aligned; those of the reference go where the ones beside them are.
    """
    if reference is None:
        return [None] * len(spoken)
    from rapidfuzz.distance import Levenshtein

    given = reference.split()
    heard = [word for text in spoken for word in text.split()]
    ends = list(accumulate(len(text.split()) for text in spoken))
    steps = Levenshtein.opcodes([_bare(word) for word in heard], [_bare(word) for word in given])
    cuts = [0]
    for end in ends[:-1]:
        cut = next(
            (
                min(one.dest_start + end - one.src_start, one.dest_end)
                for one in steps
                if one.src_start <= end < one.src_end
            ),
            len(given),
        )
        cuts.append(max(cut, cuts[-1]))
    cuts.append(len(given))
    return [" ".join(given[first:last]) for first, last in pairwise(cuts)]


def _bare(word: str) -> str:
    return "".join(one for one in word.lower() if one.isalnum())


def _runs(said: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Segments without a long pause between them, up to 30 s."""
    run: list[Segment] = []
    longest = WINDOW_SECONDS - 2 * PAD_SECONDS
    for one in said:
        apart = run and one.start - run[-1].end > PAUSE_SECONDS
        if run and (apart or one.end - run[0].start > longest):
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def _stretches(
    runs: Sequence[Sequence[Segment]], recording: Recording, duration: float
) -> list[Stretch]:
    """Each run with a little around it, and never what another one has."""
    found = []
    for at, run in enumerate(runs):
        before = runs[at - 1][-1].end if at else 0.0
        after = runs[at + 1][0].start if at + 1 < len(runs) else duration
        start = max(run[0].start - PAD_SECONDS, min((before + run[0].start) / 2, run[0].start))
        end = min(run[-1].end + PAD_SECONDS, max((run[-1].end + after) / 2, run[-1].end))
        found.append(Stretch(recording.audio, round(max(start, 0.0), 3), round(end, 3)))
    return found


def _passages(said: Iterable[Segment], stretch: Stretch) -> tuple[Passage, ...]:
    return tuple(
        Passage(
            max(one.start - stretch.start, 0.0),
            min(one.end, stretch.end) - stretch.start,
            one.text.strip(),
            one.avg_logprob,
            one.no_speech_prob,
            one.compression_ratio,
            one.flags,
        )
        for one in said
    )


def _together(found: Iterable[Piece]) -> Iterator[list[Piece]]:
    held: list[Piece] = []
    seconds = 0.0
    for one in found:
        fits = seconds + one.stretch.seconds <= WINDOW_SECONDS
        if held and not (fits and one.group == held[0].group):
            yield held
            held, seconds = [], 0.0
        held.append(one)
        seconds += one.stretch.seconds
    if held:
        yield held


def _window(
    id: str,
    held: Sequence[Piece],
    previous: str | None,
    vocabulary: Vocabulary | None,
    tokenizer: str,
) -> LabelledWindow:
    starts = accumulate((one.stretch.seconds for one in held), initial=0.0)
    passages = tuple(
        replace(said, start=round(start + said.start, 3), end=round(start + said.end, 3))
        for start, one in zip(starts, held, strict=False)
        for said in one.passages
    )
    references = [one.reference for one in held if one.reference is not None]
    first = held[0].recording
    return LabelledWindow(
        id=id,
        stretches=tuple(one.stretch for one in held),
        passages=passages,
        text=" ".join(one.text for one in passages),
        tokens=timestamped(passages, vocabulary) if vocabulary else (),
        tokenizer=tokenizer if vocabulary else "",
        reference=" ".join(references) if len(references) == len(held) else None,
        speaker=first.speaker,
        language=held[0].language,
        licence=first.licence,
        previous=previous,
        whole=len(held) == 1 and held[0].whole,
    )
