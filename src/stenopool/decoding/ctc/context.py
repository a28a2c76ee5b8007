"""Speech without a pause, cut so that both sides of a cut hear what is on the other.

A model that hears a word only in part writes nonsense. So where speech is cut (at its quietest
place, see `audio.vad`), each piece is given some sound of its neighbour. Every piece says only the
words whose middle lies in its own part, which is from cut to cut; both sides hear such a word
whole, place it at the same time and so agree whose it is, whenever and wherever they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.windows import PAD_SAMPLES, Piece

CONTEXT_SAMPLES = 2 * SAMPLE_RATE  # on each side of a cut


def with_context(
    pieces: Iterable[Piece], stride: int, context: int = CONTEXT_SAMPLES
) -> Iterator[Piece]:
    """The same pieces; those that touch hear a part of each other.

    Args:
        stride: samples of a frame. Pieces begin at a multiple of it, so that both sides of a cut
            place a word in the same frames.
        context: samples, more than `PAD_SAMPLES`.
    """
    before: Piece | None = None  # as it was given
    held: Piece | None = None  # as it will be given
    for piece in pieces:
        grown = _on_grid(piece, stride)
        if before is not None and held is not None:
            if before.end == piece.start and before.voice_end == piece.voice_start:
                grown = _with_head(piece, before, stride, context)
                held = _with_tail(held, piece, context)
            yield held
        before, held = piece, grown
    if held is not None:
        yield held


def _on_grid(piece: Piece, stride: int) -> Piece:
    """Without the few samples before the next multiple, unless they are speech."""
    start = -(-piece.start // stride) * stride
    if start > piece.voice_start:
        return piece
    return replace(piece, samples=piece.samples[start - piece.start :], start=start)


def _with_head(piece: Piece, before: Piece, stride: int, context: int) -> Piece:
    start = -(-max(before.start, piece.start - context) // stride) * stride
    head = before.samples[start - before.start :]
    return replace(piece, samples=np.concatenate([head, piece.samples]), start=start)


def _with_tail(held: Piece, piece: Piece, context: int) -> Piece:
    tail = piece.samples[:context]
    # By its length a cut is told from the padding of speech that ends here: see `own_end`.
    short = max(0, PAD_SAMPLES + 1 - len(tail))
    samples = np.concatenate([held.samples, np.pad(tail, (0, short))])
    return replace(held, samples=samples, end=held.end + len(tail) + short)


def own_start(piece: Piece) -> int:
    """The sample of the recording from which words are this piece's own."""
    return piece.voice_start if piece.voice_start - piece.start > PAD_SAMPLES else piece.start


def own_end(piece: Piece) -> int:
    """The sample of the recording up to which words are this piece's own."""
    return piece.voice_end if piece.end - piece.voice_end > PAD_SAMPLES else piece.end
