"""Which options a CTC model can honour, and which are refused by name."""

from __future__ import annotations

from dataclasses import replace

from stenopool.decoding.options import PACKED, Options
from stenopool.errors import UnsupportedOption

BEAM_SIZE = 24  # where there is a scorer or hot words
GREEDY = 1

# There is no decoder that could be told anything, sampled or asked for a language.
_UNKNOWN = (
    "task",
    "initial_prompt",
    "temperatures",
    "condition_on_previous_text",
    "chunk_seconds",
    "language_threshold",
)


def resolved(options: Options, *, scored: bool, batch_size: int) -> Options:
    """The options with every choice made.

    Args:
        scored: the model has a scorer.
        batch_size: what suits the engine.

    Raises:
        UnsupportedOption: names the option that a CTC model cannot honour.
    """
    usual = Options()
    for name in _UNKNOWN:
        if getattr(options, name) != getattr(usual, name):
            raise UnsupportedOption(
                f"a CTC model cannot honour `{name}`",
                do="Leave it out, or choose a Whisper model, such as `base`",
            )
    if options.algorithm not in (usual.algorithm, PACKED):
        raise UnsupportedOption(
            f"a CTC model has no {options.algorithm} algorithm",
            do="Leave out `algorithm`: overlapping windows are what it does",
        )
    if options.hotwords.strip() and options.beam_size == GREEDY:
        raise UnsupportedOption(
            "`hotwords` need a search, and `beam_size` is 1",
            do=f"Leave out `beam_size`, or set it to {BEAM_SIZE}",
        )
    searched = scored or bool(options.hotwords.strip())
    return replace(
        options,
        algorithm=PACKED,
        beam_size=options.beam_size or (BEAM_SIZE if searched else GREEDY),
        batch_size=options.batch_size or batch_size,
        chunk_seconds=None,
        condition_on_previous_text=False,
    )
