"""Whisper's tokens: prompts made of them, text and words out of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from stenopool.decoding.languages import WITHOUT_SPACES
from stenopool.engines.base import TEXT_POSITIONS
from stenopool.errors import ModelDamaged, UnsupportedOption, UsageError

PREVIOUS_TOKENS = TEXT_POSITIONS // 2 - 1  # that a prompt may take, as in the paper's code
SECONDS_PER_TIMESTAMP = 0.02

_REPLACEMENT = "\ufffd"


class Vocabulary:
    """The tokens of one model.

    Args:
        file: `tokenizer.json` of the model.

    Raises:
        ModelDamaged: the file is not a Whisper tokenizer.
    """

    def __init__(self, file: Path) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:
            raise ModelDamaged(
                f"`{file.name}` is not a tokenizer: {error}",
                do="Pull the model again with `steno models pull NAME --force`",
            ) from error
        if self._splits_what_it_knows():
            self._tokenizer = _mended(file)
        # `<|nospeech|>` in a prompt is text: only we may give the model commands.
        self._tokenizer.encode_special_tokens = True
        self.start = self._special("<|startoftranscript|>")
        self.end = self._special("<|endoftext|>")
        self.previous = self._special("<|startofprev|>")
        self.no_timestamps = self._special("<|notimestamps|>")
        self.first_timestamp = self.no_timestamps + 1

    def _splits_what_it_knows(self) -> bool:
        """Whether its first merge is missing, as in the published files of `base`."""
        whole = self._tokenizer.token_to_id("Ġto")
        return whole is not None and self.encode(" to") != [whole]

    def _special(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise ModelDamaged(
                f"the tokenizer lacks `{token}`", do="Use the tokenizer of a Whisper model"
            )
        return int(number)

    def head(self, language: str | None, task: str) -> list[int]:
        """Start of transcript, and for multilingual models language and task.

        Raises:
            UnsupportedOption: the model has no token for this language.
        """
        if language is None:
            return [self.start]
        spoken = self._tokenizer.token_to_id(f"<|{language}|>")
        if spoken is None:
            raise UnsupportedOption(
                f"this model does not know the language `{language}`",
                do="Choose a model of the large-v3 family",
            )
        return [self.start, int(spoken), self._special(f"<|{task}|>")]

    def context(self, hotwords: str, prompt: str) -> list[int]:
        """Tokens that every window is told came before it.

        Raises:
            UsageError: they are more than the model can be told.
        """
        text = " ".join(part.strip() for part in (hotwords, prompt) if part.strip())
        tokens: list[int] = self.encode(f" {text}") if text else []
        if len(tokens) > PREVIOUS_TOKENS:
            raise UsageError(
                f"prompt and hot words have {len(tokens)} tokens; the model reads "
                f"{PREVIOUS_TOKENS}",
                do="Shorten them",
            )
        return tokens

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; what looks like a special token in it is text too."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def prompt(
        self,
        head: Sequence[int],
        context: Sequence[int],
        *,
        previous: Sequence[int] = (),
        timestamps: bool,
    ) -> list[int]:
        """All tokens before the first one that the model writes.

        Args:
            head: see `head`.
            context: see `context`; always told.
            previous: text before the window; its end is told, as far as there is room.
        """
        room = PREVIOUS_TOKENS - len(context)
        told = [*context, *(previous[-room:] if room > 0 else ())]
        before = [self.previous, *told] if told else []
        return [*before, *head, *([] if timestamps else [self.no_timestamps])]

    def text_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Without timestamps and other special tokens."""
        return [token for token in tokens if token < self.end]

    def halves(self, token: int) -> list[tuple[int, int]]:
        """All ways in which a token's text is that of two others."""
        text = self._tokenizer.id_to_token(token) or ""  # a character for each byte
        parts = ((text[:at], text[at:]) for at in range(1, len(text)))
        known = (tuple(map(self._tokenizer.token_to_id, both)) for both in parts)
        return [
            (first, second) for first, second in known if first is not None and second is not None
        ]

    def text(self, tokens: Sequence[int]) -> str:
        """Text of tokens; special ones are left out."""
        return str(self._tokenizer.decode(self.text_tokens(tokens)))

    def words(self, tokens: Sequence[int], language: str) -> list[tuple[str, int]]:
        """Words with the number of tokens of each; joined, they are the text.

        A word begins with a space, except in languages that are written without.
        """
        words: list[tuple[str, int]] = []
        for text, count in self._characters(tokens):
            if words and not text.startswith(" ") and language not in WITHOUT_SPACES:
                previous, tokens_before = words.pop()
                text, count = previous + text, tokens_before + count  # noqa: PLW2901
            words.append((text, count))
        return words

    def _characters(self, tokens: Sequence[int]) -> list[tuple[str, int]]:
        """The shortest runs of tokens that decode to whole characters."""
        runs: list[tuple[str, int]] = []
        pending: list[int] = []
        for token in tokens:
            pending.append(token)
            text = str(self._tokenizer.decode(pending))
            if not text.endswith(_REPLACEMENT):
                runs.append((text, len(pending)))
                pending = []
        if pending:
            runs.append((str(self._tokenizer.decode(pending)), len(pending)))
        return runs


def _mended(file: Path) -> tokenizers.Tokenizer:
    """The tokenizer with the merge of a space and a `t`, which is the first of all.

    Without it `the` is written as a space and `the`, which no Whisper model has ever learned.
    """
    data = json.loads(file.read_text(encoding="utf-8"))
    merges = data["model"]["merges"]
    merges.insert(0, "Ġ t" if merges and isinstance(merges[0], str) else ["Ġ", "t"])
    return tokenizers.Tokenizer.from_str(json.dumps(data))
