"""The packed algorithm: speech packed into windows of 30 s, decoded in batches, each on its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stenopool.audio.features import WINDOW_SAMPLES
from stenopool.audio.windows import Piece, packed
from stenopool.decoding.parallel import even_batches, ordered
from stenopool.decoding.readings import Reading
from stenopool.decoding.recognise import Recogniser


def packed_readings(
    pieces: Iterable[Piece], recogniser: Recogniser, *, workers: int
) -> Iterator[Reading]:
    """Readings of a recording's speech, in order.

    Args:
        pieces: as `audio.windows.speech_pieces` gives them, none longer than 30 s.
        workers: batches decoded side by side.
    """
    size = recogniser.options.batch_size or 1
    windows = packed(pieces, WINDOW_SAMPLES)
    batches = even_batches(windows, size=size, workers=workers)
    for batch in ordered(recogniser.read, batches, workers=workers):
        for readings in batch:
            yield from readings
