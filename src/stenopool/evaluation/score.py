"""What a hypothesis has wrong: words and letters, loops, and text where nobody spoke."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Self

from stenopool.evaluation.normalise import Normalise

if TYPE_CHECKING:
    from jiwer import AlignmentChunk

LOOP = 5  # words that are heard twice in a row of their own, and not in the reference: a loop


@dataclass(frozen=True, slots=True)
class Counts:
    """Words of a reference and what became of them; they add up over recordings.

    Attributes:
        words: of the reference.
        substitutions, deletions, insertions: of the alignment with the fewest errors.
        letters: of the reference, spaces between words included.
        letter_errors: of the alignment of letters with the fewest errors.
    """

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    letters: int = 0
    letter_errors: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float | None:
        """Word error rate as a fraction; `None` where nothing is said."""
        return self.errors / self.words if self.words else None

    @property
    def cer(self) -> float | None:
        """Character error rate as a fraction; `None` where nothing is said."""
        return self.letter_errors / self.letters if self.letters else None

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of an alignment: `equal`, `substitute`, `delete` or `insert`."""

    kind: str
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """One hypothesis beside its reference.

    Attributes:
        counts: of the whole recording.
        units: counts of words for each of its utterances; the recording itself where it is one.
        chunks: the aligned words, in order.
        runs: sequences of five words in the hypothesis.
        repeated: of those, how many repeat an earlier one more often than the reference does.
    """

    counts: Counts
    units: tuple[Counts, ...]
    chunks: tuple[Chunk, ...]
    runs: int
    repeated: int


def score(references: Sequence[str], hypothesis: str, normalise: Normalise) -> Score:
    """Compare a hypothesis with what was said.

    Args:
        references: the text of each utterance; one where the recording is not divided.
        hypothesis: the text of the whole recording.
        normalise: applied to both sides.
    """
    import jiwer
    from rapidfuzz.distance import Levenshtein

    said, heard = normalise(" ".join(references)), normalise(hypothesis)
    said_words, heard_words = said.split(), heard.split()
    words = jiwer.process_words(said, heard)
    chunks = words.alignments[0]
    counts = Counts(
        len(said_words),
        words.substitutions,
        words.deletions,
        words.insertions,
        len(said),
        Levenshtein.distance(said, heard),  # no alignment, which for hours of letters takes long
    )
    ends = _ends([normalise(one).split() for one in references], said_words)
    repeated, runs = _loops(said_words, heard_words)
    return Score(
        counts,
        _by_unit(chunks, ends) if len(ends) > 1 else (counts,),
        tuple(_chunk(one, said_words, heard_words) for one in chunks),
        runs,
        repeated,
    )


def pooled(scores: Iterable[Score]) -> Counts:
    """All counts together, so that each word weighs the same, whatever recording it is in."""
    return sum((one.counts for one in scores), Counts())


def _chunk(one: AlignmentChunk, said: list[str], heard: list[str]) -> Chunk:
    return Chunk(
        one.type,
        tuple(said[one.ref_start_idx : one.ref_end_idx]),
        tuple(heard[one.hyp_start_idx : one.hyp_end_idx]),
    )


def _ends(utterances: Sequence[Sequence[str]], whole: Sequence[str]) -> list[int]:
    """After which word of the whole normalised reference each utterance ends.

    Words can melt across a border ("twenty" and "one" become "21"), so count in the whole.
    """
    apart = [word for utterance in utterances for word in utterance]
    ends = list(accumulate(len(utterance) for utterance in utterances))
    if apart == list(whole):
        return ends
    import jiwer

    aligned = jiwer.process_words(" ".join(apart), " ".join(whole)).alignments[0]
    return [_mapped(end, aligned) for end in ends[:-1]] + [len(whole)]


def _mapped(end: int, aligned: Sequence[AlignmentChunk]) -> int:
    """The place in the hypothesis of an alignment that belongs to a place in its reference."""
    for one in aligned:
        if one.ref_start_idx <= end < one.ref_end_idx:
            return min(one.hyp_start_idx + end - one.ref_start_idx, one.hyp_end_idx)
    return aligned[-1].hyp_end_idx if aligned else 0


def _by_unit(chunks: Iterable[AlignmentChunk], ends: Sequence[int]) -> tuple[Counts, ...]:
    """Counts of each utterance; an inserted word belongs to the utterance of the word before it."""
    found = [Counter[str](words=end - start) for start, end in zip([0, *ends], ends, strict=False)]
    unit = 0
    for one in chunks:
        if one.type == "insert":
            while one.ref_start_idx > ends[unit]:
                unit += 1
            found[unit]["insert"] += one.hyp_end_idx - one.hyp_start_idx
        elif one.type != "equal":
            for word in range(one.ref_start_idx, one.ref_end_idx):
                while word >= ends[unit]:
                    unit += 1
                found[unit][one.type] += 1
    return tuple(
        Counts(unit["words"], unit["substitute"], unit["delete"], unit["insert"]) for unit in found
    )


def _loops(said: Sequence[str], heard: Sequence[str]) -> tuple[int, int]:
    """Sequences of five words that repeat beyond the reference, and all such sequences."""
    in_reference, in_hypothesis = _runs(said), _runs(heard)
    repeated = sum(
        max(0, count - max(1, in_reference[run])) for run, count in in_hypothesis.items()
    )
    return repeated, in_hypothesis.total()


def _runs(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + LOOP]) for at in range(len(words) - LOOP + 1))
