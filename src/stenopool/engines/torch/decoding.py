"""The search for the texts of some windows, a step at a time, all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stenopool.engines.base import Hypothesis
from stenopool.engines.rules import Next
from stenopool.engines.search import Strategy
from stenopool.engines.special import Special
from stenopool.engines.torch.model import Model
from stenopool.engines.torch.network import Cache, Heard


@dataclass(slots=True)
class Begun:
    """A model that was told the prompt.

    Attributes:
        no_speech: of each window, the probability that nobody speaks.
        following: what it says comes after the prompt.
    """

    cache: Cache
    no_speech: list[float]
    following: Next


def begun(
    model: Model, special: Special, heard: Heard, prompt: Sequence[int], windows: int
) -> Begun:
    """Tell a model the prompt that all windows have."""
    cache = model.decoder.cache(windows)
    x = model.fed([prompt] * windows, cache, heard)
    start = list(prompt).index(special.start)
    share = model.following(x[:, start]).special_shares(special.no_speech - special.end)
    return Begun(cache, share.tolist(), model.following(x[:, -1]))


def decoded(
    model: Model,
    special: Special,
    heard: Heard,
    prompt: Sequence[int],
    strategies: Sequence[Strategy],
    left: int,
) -> list[Hypothesis]:
    """One hypothesis for each window.

    Args:
        left: tokens that may be written.
    """
    first = begun(model, special, heard, prompt, len(strategies))
    cache, following = first.cache, first.following
    active, lanes = list(range(len(strategies))), 1
    while True:
        for place, window in enumerate(active):
            strategy = strategies[window]
            kept = len(strategy.tokens) or 1
            strategy.advance(following.of(slice(place * lanes, place * lanes + kept)))
        left -= 1
        places = [
            place for place, window in enumerate(active) if left > 0 and not strategies[window].done
        ]
        if not places:
            break
        if len(places) < len(active):
            chosen = torch.tensor(places, device=model.place.device)
            heard = [(keys[chosen], values[chosen]) for keys, values in heard]
        going = [strategies[active[place]] for place in places]
        before, lanes = lanes, max(len(one.tokens) for one in going)
        # A window with fewer hypotheses has its first one several times.
        tokens = [[one.tokens[lane]] for one in going for lane in _lanes(one, lanes)]
        cache.follow(
            [
                place * before + one.parents[lane]
                for place, one in zip(places, going, strict=True)
                for lane in _lanes(one, lanes)
            ]
        )
        active = [active[place] for place in places]
        following = model.following(model.fed(tokens, cache, heard)[:, -1])
    return [one.best(share) for one, share in zip(strategies, first.no_speech, strict=True)]


def _lanes(strategy: Strategy, lanes: int) -> list[int]:
    count = len(strategy.tokens)
    return [lane if lane < count else 0 for lane in range(lanes)]
