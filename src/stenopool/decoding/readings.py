"""What decoding makes of windows: words with times, and figures that say how far to trust them."""

from __future__ import annotations

from dataclasses import dataclass

from stenopool.decoding.quality import Figures
from stenopool.transcript import Word


@dataclass(frozen=True, slots=True)
class Reading:
    """The words of one stretch of a recording.

    Attributes:
        words: in order, with times in the recording; none where nothing was understood.
        figures: of the decoding that gave the words.
        dropped_seconds: speech in this stretch for which there are no words.
        end: seconds in the recording up to which the stretch reaches.
    """

    words: tuple[Word, ...]
    figures: Figures
    dropped_seconds: float
    end: float
