"""The filter drops what should not be learned from, and says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distillations import ScriptedTeacher, manifest_of, segment, transcript, window
from sounds import tone, write_wav
from stenopool.errors import UsageError
from stenopool.training.examples import Bad
from stenopool.training.filter import DROPPED, HISTOGRAM, REPORT, Bounds, filter_labels, judged
from stenopool.training.labels import LabelledWindow, Passage, Stretch, labelled

SENTENCE = "the quick brown fox jumps over the lazy dog again"
LOOP = "and so on " * 12


def doubtful(**more: object) -> LabelledWindow:
    figures = {"avg_logprob": -0.2, "no_speech_prob": 0.0, "compression_ratio": 1.2} | more
    return window(text=SENTENCE, passages=(Passage(0.0, 2.0, SENTENCE, **figures),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (window(text=SENTENCE, reference=SENTENCE), ""),
        (
            window(text="The QUICK brown fox, jumps over the lazy dog again!", reference=SENTENCE),
            "",
        ),
        (window(text=SENTENCE, reference=SENTENCE.replace("quick", "slow")), ""),  # one of ten
        (window(text=SENTENCE, reference=SENTENCE.replace("quick brown", "slow red")), "wer"),
        (window(text=SENTENCE, reference=""), "wer"),
        (window(text="", reference=SENTENCE), "empty"),
        (window(text=" ... ", reference=None), "empty"),
        (window(text=SENTENCE), ""),
        (window(text=LOOP), "loop"),
        (doubtful(flags=("repetition",)), "loop"),
        (doubtful(compression_ratio=2.5), "loop"),
        (doubtful(flags=("fast",)), "fast"),
        (doubtful(avg_logprob=-1.2), "low_probability"),
    ],
)
def test_label_is_judged_by_what_there_is(one: LabelledWindow, reason: str) -> None:
    assert judged(one, Bounds()).reason == reason


def test_second_model_judges_where_nobody_wrote_it_down() -> None:
    other = SENTENCE.replace("quick brown fox", "slow red hen")
    assert judged(window(text=SENTENCE), Bounds(), SENTENCE).reason == ""
    assert judged(window(text=SENTENCE), Bounds(), other).reason == "disagreement"
    assert judged(window(text=SENTENCE), Bounds(max_disagreement=0.5), other).reason == ""
    assert judged(window(text=SENTENCE, reference=SENTENCE), Bounds(), other).reason == ""


def test_filter_writes_what_it_kept_and_what_it_dropped(tmp_path: Path) -> None:
    source = manifest_of(
        tmp_path / "labels",
        [
            window("good", SENTENCE, reference=SENTENCE, tokens=(1, 2)),
            window("bad", "something else altogether", reference=SENTENCE),
            window("loop", LOOP),
        ],
    )
    told = filter_labels(str(source), tmp_path / "out", bad=Bad(stop=True))
    kept = list(labelled(tmp_path / "out", Bad(stop=True)))
    assert [one.id for one in kept] == ["good"]
    assert kept[0].tokens == (1, 2)
    assert kept[0].stretches[0].audio.resolve() == Path("a.wav").resolve()
    assert (told["windows"], told["kept"]) == (3, 1)
    assert {name: one["windows"] for name, one in told["dropped"].items()} == {"loop": 1, "wer": 1}
    lines = (tmp_path / "out" / DROPPED).read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["wer", "loop"]
    assert json.loads((tmp_path / "out" / REPORT).read_text()) == told
    assert (tmp_path / "out" / HISTOGRAM).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="holds a manifest"):
        filter_labels(str(source), tmp_path / "out", bad=Bad(stop=True))


def test_second_model_hears_only_windows_without_a_text_and_none_twice(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "a.wav", tone(6.0))
    parts = (Stretch(sound, 1.0, 3.0), Stretch(sound, 4.0, 5.0))
    source = manifest_of(
        tmp_path / "labels",
        [
            window("given", SENTENCE, reference=SENTENCE),
            window("alike", SENTENCE, stretches=parts),
            window("apart", SENTENCE, stretches=parts),
        ],
    )
    heard = iter([SENTENCE, "nothing of the kind"])
    lengths = []

    class Second(ScriptedTeacher):
        def transcribe_many(self, paths, options):  # type: ignore[no-untyped-def]
            for path in paths:
                lengths.append(path.stat().st_size)
                yield transcript(segment(0.0, 1.0, next(heard)))

    second = Second(tmp_path, {}).transcriber
    told = filter_labels(str(source), tmp_path / "out", second=second, bad=Bad(stop=True))
    assert told["kept"] == 2
    assert told["dropped"]["disagreement"]["windows"] == 1
    assert lengths == [44 + 3 * 32_000] * 2
    (tmp_path / "out" / "manifest.jsonl").unlink()  # as if killed before it was written
    again = filter_labels(str(source), tmp_path / "out", second=second, bad=Bad(stop=True))
    assert again["kept"] == 2
    assert len(lengths) == 2


def test_speakers_are_held_out_as_they_are(tmp_path: Path) -> None:
    windows = [
        window(f"{speaker}{number}", SENTENCE, reference=reference, speaker=speaker)
        for speaker in "abcd"
        for number, reference in enumerate((SENTENCE, "something else"))
    ]
    source = manifest_of(tmp_path / "labels", windows)
    told = filter_labels(str(source), tmp_path / "out", hold_out=0.25, bad=Bad(stop=True))
    kept = list(labelled(tmp_path / "out", Bad(stop=True)))
    held = list(labelled(tmp_path / "out" / "valid.jsonl", Bad(stop=True)))
    assert (len(kept), len(held), told["held_out"]["windows"]) == (3, 2, 2)
    assert not {one.speaker for one in kept} & {one.speaker for one in held}


@pytest.mark.parametrize(
    "bounds", [{"max_wer": -0.1}, {"max_wer": float("nan")}, {"min_logprob": 0.5}]
)
def test_bounds_that_nothing_can_meet_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(bounds))):
        Bounds(**bounds)


def test_nothing_to_filter_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text("")
    with pytest.raises(UsageError, match="no labelled window"):
        filter_labels(str(tmp_path), tmp_path / "out", bad=Bad(stop=True))
