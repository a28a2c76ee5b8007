from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.errors import UsageError
from stenopool.training.batches import Batches, Utterance, packed, padded
from stenopool.training.examples import Example


def examples(count: int, *, speakers: int = 3) -> list[Example]:
    random = np.random.default_rng(5)
    return [
        Example(
            f"{n}", Path(f"{n}.wav"), "a", (0,), float(random.uniform(0.5, 3)), f"s{n % speakers}"
        )
        for n in range(count)
    ]


def ids(batches: Batches, epoch: int) -> list[str]:
    return [part.id for batch in batches.epoch(epoch) for one in batch for part in one.parts]


@pytest.mark.parametrize("join", [1, 4])
def test_every_epoch_hears_each_recording_once_in_another_order(join: int) -> None:
    batches = Batches(examples(50), seconds=10, seed=1, join=join)
    first, second = ids(batches, 0), ids(batches, 1)
    assert sorted(first) == sorted(second) == sorted(f"{n}" for n in range(50))
    assert first != second


def test_speeds_are_other_ones_in_each_epoch_and_lengths_follow_them() -> None:
    batches = Batches(examples(50), seconds=10, seed=1, speed=0.2)
    speeds = [[one.speed for batch in batches.epoch(n) for one in batch] for n in (0, 1, 0)]
    assert speeds[0] == speeds[2] != speeds[1]
    assert 0.8 <= min(speeds[0]) < 0.9
    assert 1.1 < max(speeds[0]) <= 1.2
    (one,) = [one for batch in batches.epoch(0) for one in batch if one.id == "7"]
    assert one.seconds == one.parts[0].seconds / one.speed


def test_order_follows_from_seed_and_epoch_alone() -> None:
    one, other = (Batches(examples(40), seconds=8, seed=4, join=3, pause=0.5) for _ in range(2))
    other.epoch(0)
    assert one.epoch(7) == other.epoch(7)
    assert Batches(examples(40), seconds=8, seed=5).epoch(7) != one.epoch(7)


@given(st.lists(st.floats(0.01, 40), min_size=1, max_size=60), st.floats(1, 60))
def test_padded_batch_is_within_its_seconds(lengths: list[float], seconds: float) -> None:
    utterances = [
        Utterance((Example(f"{n}", Path("a"), "a", (0,), one),)) for n, one in enumerate(lengths)
    ]
    found = list(packed(utterances, seconds))
    assert [one for batch in found for one in batch] == utterances
    for batch in found:
        longest = max(padded(round(one.seconds * 16_000)) for one in batch)
        assert len(batch) * longest <= seconds * 16_000 or len(batch) == 1


@given(st.integers(1, 10_000_000))
def test_padding_is_short_and_there_are_few_lengths(samples: int) -> None:
    assert samples <= padded(samples) <= max(samples * 9 / 8 + 1, samples + 512)
    assert padded(padded(samples)) == padded(samples)


def test_an_hour_of_lengths_is_a_few_shapes() -> None:
    assert len({padded(samples) for samples in range(8000, 480_000, 7)}) < 60


def test_recordings_of_a_batch_have_about_the_same_length() -> None:
    padding = []
    for batch in Batches(examples(400), seconds=20, seed=0).epoch(0):
        seconds = [one.seconds for one in batch]
        padding.append(1 - sum(seconds) / (len(seconds) * max(seconds)))
    assert np.mean(padding) < 0.15


def test_only_recordings_of_one_speaker_are_joined() -> None:
    batches = Batches(examples(60), seconds=30, seed=0, join=5, pause=0.4, longest=9.0)
    joined = [one for batch in batches.epoch(0) for one in batch]
    assert Counter(len(one.parts) for one in joined).keys() > {1, 2, 3}
    for one in joined:
        assert len({part.speaker for part in one.parts}) == 1
        assert len(one.pauses) == len(one.parts) - 1
        assert all(0 <= pause <= 0.4 for pause in one.pauses)
        assert one.seconds <= 9.0


@pytest.mark.parametrize("first", [0, 1, 7, 23])
def test_steps_go_on_as_if_they_had_never_stopped(first: int) -> None:
    batches = Batches(examples(30), seconds=6, seed=2)
    whole = list(batches.steps(0, 30, accumulate=2))
    assert list(batches.steps(first, 30, accumulate=2)) == whole[first:]
    assert whole[-1].epoch > 1


def test_processes_share_each_step_and_hear_nothing_twice() -> None:
    batches = Batches(examples(30), seconds=6, seed=2)
    alone = list(batches.steps(0, 10, accumulate=4))
    shared = [list(batches.steps(0, 10, accumulate=2, rank=rank, processes=2)) for rank in (0, 1)]
    for whole, one, other in zip(alone, *shared, strict=True):
        assert whole.everyone == one.everyone == other.everyone
        assert Counter(one.batches + other.batches) == Counter(whole.batches)
        assert len(one.batches) == len(other.batches) == 2


def test_a_single_short_recording_is_enough() -> None:
    batches = Batches(examples(1), seconds=1, seed=0)
    assert len(list(islice(batches.steps(0, 5, accumulate=3), 5))) == 5


def test_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to train on"):
        Batches([], seconds=1, seed=0)
