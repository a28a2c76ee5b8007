"""The tokens that Whisper's own code never writes: symbols that are not spoken, and commands.

Formats that keep weights alone leave them to be worked out, as the paper's code does in
`Tokenizer.non_speech_tokens` of openai/whisper.
"""

from __future__ import annotations

from stenopool.errors import ModelDamaged
from stenopool.models.formats.special import SpecialTokens, special_tokens
from stenopool.models.weights import Generation

_SYMBOLS = [*'"#()*+/:;<=>@[\\]^_`{|}~「」『』']
_RUNS = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split()  # noqa: SIM905
_MUSIC = [*"♩♪♫♬♭♮♯"]  # of several tokens each: their first is enough
_INSIDE_WORDS = (" -", " '")


def suppressed(tokenizer: bytes, vocabulary: int) -> Generation:
    """What the paper's code suppresses; nothing is known of alignment heads.

    Raises:
        ModelDamaged: it is not the tokenizer of a Whisper model.
    """
    tokens = special_tokens(tokenizer, vocabulary)
    import tokenizers

    try:
        encoder = tokenizers.Tokenizer.from_str(tokenizer.decode())
    except Exception as error:
        raise ModelDamaged(
            f"`tokenizer.json` is not a tokenizer: {error}", do="Copy it again"
        ) from error

    def ids(text: str) -> list[int]:
        return list(encoder.encode(text, add_special_tokens=False).ids)

    never = {ids(text)[0] for text in _INSIDE_WORDS}
    for text in (*_SYMBOLS, *_RUNS, *_MUSIC):
        for found in (ids(text), ids(f" {text}")):
            if len(found) == 1 or text in _MUSIC:
                never.add(found[0])
    return Generation(
        suppress=tuple(sorted(never | _commands(tokens))),
        suppress_first=(ids(" ")[0], tokens.end),
        alignment_heads=(),
    )


def _commands(tokens: SpecialTokens) -> set[int]:
    return {
        tokens.start,
        tokens.translate,
        tokens.transcribe,
        tokens.start_of_model,
        tokens.previous,
        tokens.no_speech,
    }
