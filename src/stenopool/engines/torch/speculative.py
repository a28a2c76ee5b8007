"""Speculative decoding (Leviathan et al. 2023): a small model drafts, the large one checks.

The assistant writes a few tokens ahead, one after the other. The main model is then fed all of them
at once, which takes hardly longer than one, and says for each what it would have written itself.
What agrees is kept, and one token more; the rest is forgotten. So the text is the main model's own,
as greedy search finds it, and only the time depends on the assistant.

That is so to the last token, and not only nearly: sums of several rows are rounded otherwise than
those of one, so where the main model's choice is close, it is asked again as greedy search would
ask, a token at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from stenopool.engines.base import Hypothesis
from stenopool.engines.rules import Choice, Next, Rules
from stenopool.engines.search import Greedy
from stenopool.engines.special import Special
from stenopool.engines.torch.decoding import begun
from stenopool.engines.torch.model import Model
from stenopool.engines.torch.network import Heard

MOST_DRAFTED = 6  # tokens
DOUBTFUL = -1.0  # log-probability of a draft that is better not checked
# Choices with smaller margins are made a token at a time. Rounding moves logits by some 0.00001 in
# float32; with 16 bits, by as much as these numbers have steps.
CLOSE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}


def speculated(
    main: Model,
    assistant: Model,
    special: Special,
    heard: tuple[Heard, Heard],
    prompt: Sequence[int],
    left: int,
) -> Hypothesis:
    """The hypothesis of greedy search for one window.

    Args:
        heard: of main model and assistant.
        left: tokens that may be written.
    """
    rules = Rules(special, timestamps=special.no_timestamps not in prompt)
    checked = _Checked(main, special, rules, heard[0], prompt)
    drafts = _Drafts(assistant, special, rules, heard[1], prompt)
    greedy, wanted = checked.greedy, 2
    left -= 1
    while left > 0 and not greedy.done:
        # The last token that may be written follows from those before it.
        drafted = drafts.after(greedy.path, min(wanted, left - 1))
        kept = checked.go_on(drafted)
        left -= kept
        agreed = kept - 1
        wanted = min(wanted + 1, MOST_DRAFTED) if agreed == len(drafted) else max(1, agreed)
    return greedy.best(checked.no_speech)


class _Drafts:
    """The assistant: what it would write next."""

    def __init__(
        self, model: Model, special: Special, rules: Rules, heard: Heard, prompt: Sequence[int]
    ) -> None:
        self._model, self._end, self._rules, self._heard = model, special.end, rules, heard
        self._prompt = tuple(prompt)
        self._cache = model.decoder.cache(1)
        self._fed: tuple[int, ...] = ()  # what is in the cache

    def after(self, path: tuple[int, ...], count: int) -> list[int]:
        """So many tokens that may follow a text; fewer where it would end, or doubts itself."""
        so_far = path
        while len(so_far) < len(path) + count:
            choice = self._rules.best(self._following(so_far), 0, so_far)
            if choice.token == self._end or choice.logprob < DOUBTFUL:
                break
            so_far = (*so_far, choice.token)
        return list(so_far[len(path) :])

    def _following(self, path: tuple[int, ...]) -> Next:
        tokens = self._prompt + path
        known = min(_alike(self._fed, tokens), len(tokens) - 1)  # the last is what it answers to
        self._cache.length, self._fed = known, tokens
        x = self._model.fed([tokens[known:]], self._cache, self._heard)
        return self._model.following(x[:, -1])


class _Checked:
    """The main model: what it writes, with drafts or without.

    Attributes:
        greedy: what it has written; one token, when this is made.
        no_speech: probability that nobody speaks.
    """

    def __init__(
        self, model: Model, special: Special, rules: Rules, heard: Heard, prompt: Sequence[int]
    ) -> None:
        first = begun(model, special, heard, prompt, 1)
        self._model, self._heard, self._cache = model, heard, first.cache
        self._prompt = tuple(prompt)
        (self.no_speech,) = first.no_speech
        self.greedy = Greedy(rules, special)
        self.greedy.advance(first.following)
        self._exact = first.cache.length  # tokens in the cache that were not fed as drafts
        self._close = CLOSE[str(model.place.dtype).removeprefix("torch.")]

    def go_on(self, drafted: Sequence[int]) -> int:
        """Write the drafts as far as they are right, and one token more; tells how many."""
        before = self._cache.length
        x = self._model.fed([[*self.greedy.tokens, *drafted]], self._cache, self._heard)
        following = self._model.following(x[0])
        if not drafted and self._exact == before:
            self._exact += 1
        kept = 0
        for draft in (*drafted, None):
            choice = self.greedy.best_of(following.of(slice(kept, kept + 1)))
            kept += 1
            close = choice.margin < self._close and self._exact < before + kept
            if close:
                choice = self._alone(before + kept)
            self.greedy.take(choice)
            if close or self.greedy.done or choice.token != draft:
                break
        self._cache.length = before + kept
        return kept

    def _alone(self, length: int) -> Choice:
        """The choice after so many tokens, with each of them fed as greedy search feeds it."""
        tokens = self._prompt + self.greedy.path
        self._cache.length = self._exact
        for token in tokens[self._exact : length]:
            x = self._model.fed([[token]], self._cache, self._heard)
        self._exact = length
        return self.greedy.best_of(self._model.following(x[:, -1]))


def _alike(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(some), len(others))
    return next((place for place in range(shorter) if some[place] != others[place]), shorter)
