"""The search of the engines, shown what a model might say; no model is loaded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.engines.base import Search
from stenopool.engines.rules import LATEST_FIRST_TIMESTAMP, Choices, Next, Rules
from stenopool.engines.search import SPREAD, Beams, Greedy, Samples, strategy
from stenopool.engines.special import Special

END, NO_SPEECH, STAMP = 100, 102, 104  # STAMP + n is the timestamp of n steps
STAMPS, CANDIDATES = 120, 4
SPECIAL = Special(
    start=101,
    end=END,
    no_speech=NO_SPEECH,
    no_timestamps=STAMP - 1,
    languages={},
    suppressed=(),
    suppressed_first=(7, END),
)
PLAIN = Rules(SPECIAL, timestamps=False)
STAMPED = Rules(SPECIAL, timestamps=True)
NEVER = -1000.0  # logit


def says(
    text: Mapping[int, float],
    *,
    end: float = 0.0,
    stamps: Mapping[int, float] | None = None,
    other: float = 0.0,
    no_speech: float = 0.0,
) -> Next:
    """One row: the weight of each token; `other` is of text that is no candidate."""
    ids = [*text, *range(90, 90 + CANDIDATES)][:CANDIDATES]
    shares = [*text.values(), *[0.0] * CANDIDATES][:CANDIDATES]
    specials = np.full(STAMP - END + STAMPS, NEVER, dtype=np.float32)
    specials[0], specials[NO_SPEECH - END] = logit(end), logit(no_speech)
    for number, share in (stamps or {}).items():
        specials[STAMP - END + number] = logit(share)
    return Next(
        np.array([ids], dtype=np.int32),
        np.array([[logit(share) for share in shares]], dtype=np.float32),
        np.array([logit(sum(shares) + other)], dtype=np.float32),
        specials[None],
    )


def logit(share: float) -> float:
    return float(np.log(share)) if share > 0 else NEVER


def rows(*each: Next) -> Next:
    return Next(
        *(
            np.concatenate([getattr(one, name) for one in each])
            for name in ("ids", "logits", "mass", "specials")
        )
    )


def shares(choices: Choices) -> dict[int, float]:
    """The tokens that may come, with their probabilities."""
    found = dict(zip(choices.ids.tolist(), np.exp(choices.logprobs).tolist(), strict=True))
    return {token: share for token, share in found.items() if share > 1e-9}


# --- what the model says ----------------------------------------------------------------------


def test_share_of_a_special_token_is_of_all_tokens() -> None:
    following = rows(
        says({1: 4.0}, end=1.0, no_speech=2.0, stamps={3: 1.0}),
        says({1: 1.0}, no_speech=1.0, other=2.0),
    )
    found = following.special_shares(NO_SPEECH - END)
    assert found == pytest.approx([0.25, 0.25], abs=1e-6)


def test_rows_of_one_window_are_taken_out() -> None:
    following = rows(*(says({token: 1.0}) for token in (1, 2, 3)))
    part = following.of(slice(1, 3))
    assert part.ids[:, 0].tolist() == [2, 3]
    assert len(part.logits) == len(part.mass) == len(part.specials) == 2


# --- rules ------------------------------------------------------------------------------------


def test_text_without_timestamps_is_of_text_and_the_end() -> None:
    following = says({1: 3.0, 2: 1.0}, end=2.0, other=2.0, stamps={5: 50.0}, no_speech=50.0)
    found = shares(PLAIN.choices(following, 0, (9,)))
    assert found == pytest.approx({1: 0.375, 2: 0.125, END: 0.25}, abs=1e-6)


def test_some_tokens_are_never_the_first() -> None:
    following = says({7: 6.0, 1: 3.0}, end=9.0)
    assert set(shares(PLAIN.choices(following, 0, ()))) == {1}
    assert set(shares(PLAIN.choices(following, 0, (1,)))) == {7, 1, END}


def test_each_row_has_its_own_choices() -> None:
    following = rows(says({1: 1.0}), says({2: 1.0}))
    assert set(shares(PLAIN.choices(following, 1, (9,)))) == {2}


def test_stamped_text_begins_with_a_timestamp_of_the_first_second() -> None:
    late = LATEST_FIRST_TIMESTAMP + 1
    following = says({1: 90.0}, end=90.0, stamps={0: 1.0, late - 1: 3.0, late: 9.0})
    found = shares(STAMPED.choices(following, 0, ()))
    assert found == pytest.approx({STAMP: 0.25, STAMP + late - 1: 0.75}, abs=1e-6)


def test_text_follows_the_first_timestamp() -> None:
    following = says({1: 3.0}, end=1.0, stamps={0: 90.0, 60: 90.0})
    found = shares(STAMPED.choices(following, 0, (STAMP,)))
    assert found == pytest.approx({1: 0.75, END: 0.25}, abs=1e-6)


def test_timestamp_after_text_is_later_than_the_last() -> None:
    following = says({1: 6.0}, end=1.0, stamps={9: 90.0, 10: 90.0, 11: 2.0, 12: 1.0})
    found = shares(STAMPED.choices(following, 0, (STAMP + 10, 1)))
    expected = {1: 0.6, END: 0.1, STAMP + 11: 0.2, STAMP + 12: 0.1}
    assert found == pytest.approx(expected, abs=1e-6)


def test_after_a_closing_timestamp_comes_one_no_earlier_or_the_end() -> None:
    following = says({1: 90.0}, end=5.0, stamps={10: 90.0, 19: 90.0, 20: 2.0, 25: 1.0})
    found = shares(STAMPED.choices(following, 0, (STAMP + 10, 1, STAMP + 20)))
    assert found == pytest.approx({END: 5 / 8, STAMP + 20: 2 / 8, STAMP + 25: 1 / 8}, abs=1e-6)


def test_after_a_pair_of_timestamps_comes_text_or_the_end() -> None:
    following = says({1: 3.0}, end=1.0, stamps={20: 90.0, 30: 90.0})
    so_far = (STAMP + 10, 1, STAMP + 20, STAMP + 20)
    found = shares(STAMPED.choices(following, 0, so_far))
    assert found == pytest.approx({1: 0.75, END: 0.25}, abs=1e-6)


@pytest.mark.parametrize(("text", "end"), [(2.9, 1.0), (1.0, 2.9)])
def test_timestamps_that_outweigh_any_text_are_all_that_may_come(text: float, end: float) -> None:
    following = says({1: text}, end=end, other=9.0, stamps={11: 1.5, 12: 1.5})
    found = shares(STAMPED.choices(following, 0, (STAMP + 10, 1)))
    assert found == pytest.approx({STAMP + 11: 0.5, STAMP + 12: 0.5}, abs=1e-6)


@pytest.mark.parametrize(("text", "end"), [(3.1, 1.0), (1.0, 3.1)])
def test_timestamps_are_weighed_together_against_one_token(text: float, end: float) -> None:
    following = says({1: text}, end=end, stamps={11: 1.5, 12: 1.5})
    assert set(shares(STAMPED.choices(following, 0, (STAMP + 10, 1)))) >= {1, END, STAMP + 11}


def test_text_that_may_not_come_does_not_outweigh_a_timestamp() -> None:
    following = says({1: 90.0}, end=2.0, stamps={20: 1.5, 21: 1.5})
    found = shares(STAMPED.choices(following, 0, (STAMP + 10, 1, STAMP + 20)))
    assert END not in found  # as in the paper's code: the end is less likely than all timestamps


@given(
    st.lists(st.floats(0.01, 9), min_size=CANDIDATES, max_size=CANDIDATES),
    st.floats(0.01, 9),
    st.dictionaries(st.integers(0, STAMPS - 1), st.floats(0.01, 9), min_size=1),
    st.sampled_from([(), (STAMP + 3,), (STAMP + 3, 1), (STAMP + 3, 1, STAMP + 9)]),
)
def test_no_more_than_all_is_ever_shared_out(
    text: list[float], end: float, stamps: dict[int, float], so_far: tuple[int, ...]
) -> None:
    following = says(dict(enumerate(text, 1)), end=end, stamps={**stamps, 50: 0.5})
    for rules in (PLAIN, STAMPED):
        found = shares(rules.choices(following, 0, so_far))
        assert found
        assert sum(found.values()) <= 1 + 1e-5


# --- beams ------------------------------------------------------------------------------------


def beams(size: int, first: Next | None = None) -> Beams:
    """A search after its first step."""
    search = Beams(PLAIN, SPECIAL, size)
    search.advance(first or says({1: 1.0}))
    return search


def test_greedy_search_takes_the_most_probable_and_stops_at_the_end() -> None:
    search = beams(1, says({1: 0.5, 2: 0.4}))
    assert (search.tokens, search.parents, search.done) == ([1], [0], False)
    search.advance(says({3: 0.3, 4: 0.7}))
    assert search.tokens == [4]
    search.advance(says({5: 0.2}, end=0.8))
    assert search.done
    best = search.best(0.25)
    assert best.tokens == (1, 4)
    assert best.no_speech_prob == 0.25
    assert best.probabilities == pytest.approx((5 / 9, 0.7), abs=1e-6)
    assert best.avg_logprob == pytest.approx(np.log([5 / 9, 0.7, 0.8]).mean(), abs=1e-6)


def test_only_hypotheses_near_the_best_go_on() -> None:
    near, far = np.exp(-SPREAD + 0.05), np.exp(-SPREAD - 0.05)
    assert beams(5, says({1: 1.0, 2: near})).tokens == [1, 2]
    assert beams(5, says({1: 1.0, 2: far})).tokens == [1]


def test_no_more_hypotheses_than_asked_for_go_on() -> None:
    first = says({1: 0.3, 2: 0.28, 3: 0.26, 4: 0.16})
    assert beams(2, first).tokens == [1, 2]
    assert beams(3, first).tokens == [1, 2, 3]


def test_new_tokens_name_the_hypothesis_that_they_go_on_from() -> None:
    search = beams(3, says({1: 0.5, 2: 0.5}))
    search.advance(rows(says({3: 1.0}), says({4: 0.6, 5: 0.4})))
    assert (search.tokens, search.parents) == ([3, 4, 5], [0, 1, 1])


def test_later_doubt_can_overturn_an_early_choice() -> None:
    search = beams(2, says({1: 0.55, 2: 0.45}))
    search.advance(rows(says({3: 0.3, 4: 0.3, 5: 0.2, 6: 0.2}), says({8: 1.0})))
    assert (search.tokens[0], search.parents[0]) == (8, 1)
    search.advance(rows(*[says({9: 0.0}, end=1.0)] * len(search.tokens)))
    assert search.best(0.0).tokens == (2, 8)


def test_of_hypotheses_that_end_alike_the_best_goes_on() -> None:
    search = beams(2, says({1: 0.4, 2: 0.6}))
    search.advance(rows(says({3: 1.0}), says({3: 1.0})))
    assert search.parents == [0, 1]  # `2 3` and `1 3` are not alike yet
    search.advance(rows(says({4: 1.0}), says({4: 1.0})))
    assert (search.tokens, search.parents) == ([4], [0])
    search.advance(says({9: 0.0}, end=1.0))
    assert search.best(0.0).tokens == (2, 3, 4)


def test_what_is_far_below_an_ended_hypothesis_is_given_up() -> None:
    search = beams(5)
    search.advance(says({2: 0.4}, end=0.6))
    assert not search.done
    search.advance(says({3: 0.25, 4: 0.25, 5: 0.25, 6: 0.25}))
    assert search.done  # 0.1 is less than 0.6 / e^1.2
    assert search.best(0.0).tokens == (1,)


def test_search_ends_when_as_many_as_asked_for_have_ended() -> None:
    search = beams(2)
    search.advance(says({2: 0.5}, end=0.5))
    assert not search.done
    search.advance(says({3: 0.4}, end=0.6))
    assert search.done
    assert search.best(0.0).tokens in ((1,), (1, 2))


def test_best_of_the_ended_has_the_highest_mean_not_the_highest_sum() -> None:
    search = beams(2)
    search.advance(says({2: 0.45}, end=0.55))
    search.advance(says({3: 0.0}, end=1.0))
    best = search.best(0.0)
    assert best.tokens == (1, 2)
    assert best.avg_logprob == pytest.approx(np.log(0.45) / 3, abs=1e-6)


def test_search_that_is_cut_off_gives_what_it_has() -> None:
    search = beams(2, says({1: 0.6, 2: 0.4}))
    best = search.best(0.0)
    assert best.tokens == (1,)
    assert best.avg_logprob == pytest.approx(np.log(0.6), abs=1e-6)


@given(
    st.integers(1, 5),
    st.lists(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), min_size=2, max_size=8),
)
def test_hypotheses_are_few_different_and_connected(size: int, steps: list[list[float]]) -> None:
    search = Beams(PLAIN, SPECIAL, size)
    texts: list[tuple[int, ...]] = [()]
    for step in steps:
        if search.done:
            break
        turned = [says(dict(zip((1, 2, 3, 4), np.roll(step, n), strict=True)), end=0.1)
                  for n in range(len(texts))]  # fmt: skip
        search.advance(rows(*turned))
        assert len(search.tokens) == len(search.parents) <= size
        assert all(parent < len(texts) for parent in search.parents)
        pairs = zip(search.parents, search.tokens, strict=True)
        texts = [(*texts[parent], token) for parent, token in pairs]
        assert len({text[-2:] for text in texts}) == len(texts)
    assert END not in search.best(0.0).tokens
    assert search.best(0.0).avg_logprob <= 0


# --- samples ----------------------------------------------------------------------------------


def samples(count: int, temperature: float = 1.0) -> Samples:
    return Samples(PLAIN, SPECIAL, Search(temperature=temperature, best_of=count))


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.75), (0.5, 0.9), (2.0, 0.634)])
def test_tokens_are_drawn_as_often_as_their_share_at_the_temperature(
    temperature: float, share: float
) -> None:
    search = samples(4000, temperature)
    search.advance(says({1: 0.75, 2: 0.25}))
    assert np.mean(np.array(search.tokens) == 1) == pytest.approx(share, abs=0.03)
    assert set(search.tokens) == {1, 2}


def test_all_samples_go_on_from_the_first_row_then_each_from_its_own() -> None:
    search = samples(3)
    search.advance(says({1: 0.5, 2: 0.5}))
    assert search.parents == [0, 0, 0]
    search.advance(rows(says({3: 1.0}), says({4: 1.0}), says({5: 1.0})))
    assert (search.tokens, search.parents) == ([3, 4, 5], [0, 1, 2])


def test_samples_repeat_themselves() -> None:
    first, again = samples(50), samples(50)
    for search in (first, again):
        search.advance(says({1: 0.3, 2: 0.3, 3: 0.4}))
    assert first.tokens == again.tokens


def test_sample_that_has_ended_stays_as_it_is_until_all_have() -> None:
    search = samples(2)
    search.advance(says({1: 1.0}))
    search.advance(rows(says({2: 0.0}, end=1.0), says({3: 1.0})))
    assert not search.done
    assert len(search.tokens) == 2
    search.advance(rows(says({4: 1.0}), says({5: 0.0}, end=1.0)))
    assert search.done
    assert search.best(0.0).tokens in ((1,), (1, 3))


def test_most_probable_sample_is_the_result() -> None:
    search = samples(40)
    search.advance(says({1: 0.7, 2: 0.3}))
    search.advance(rows(*[says({9: 0.0}, end=1.0)] * 40))
    best = search.best(0.5)
    assert best.tokens == (1,)
    assert best.probabilities == pytest.approx((0.7,), abs=1e-6)
    assert best.no_speech_prob == 0.5


def test_temperature_decides_between_beams_and_samples() -> None:
    assert isinstance(strategy(SPECIAL, Search(temperature=0.2), timestamps=True), Samples)
    assert isinstance(strategy(SPECIAL, Search(beam_size=1), timestamps=True), Greedy)
    assert isinstance(strategy(SPECIAL, Search(beam_size=2), timestamps=True), Beams)
