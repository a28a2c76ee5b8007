"""The packed algorithm: speech packed into windows of 30 s, decoded in batches, each on its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stenopool.audio.features import WINDOW_SAMPLES
from stenopool.audio.windows import Piece, packed
from stenopool.decoding.batching import Batcher
from stenopool.decoding.readings import Reading
from stenopool.decoding.recognise import Recogniser


def packed_readings(
    pieces: Iterable[Piece], recogniser: Recogniser, batcher: Batcher
) -> Iterator[Reading]:
    """Readings of a recording's speech, in order.

    Args:
        pieces: as `audio.windows.speech_pieces` gives them, none longer than 30 s.
    """
    for readings in batcher.readings(recogniser, packed(pieces, WINDOW_SAMPLES)):
        yield from readings
