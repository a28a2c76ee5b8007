"""Distillation: what a student learns, that it is never lost, and what it is made of."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import STENO
from distillations import LARGE_V3, manifest_of, recordings, saved, tokenizer, whisper, window
from stenopool.audio.features import log_mel
from stenopool.decoding.tokens import Vocabulary
from stenopool.errors import NotMedia, ResumeRefused, StorageFull, UnsupportedOption, UsageError
from stenopool.models.formats.reading import read_whisper
from stenopool.models.formats.tokenizer import tokenizer_of_words
from stenopool.training import encoder_states
from stenopool.training.agreement import Said, agreement
from stenopool.training.augment import Change, changed, drawn, masked
from stenopool.training.distil_options import DistilOptions
from stenopool.training.distil_run import train_distil
from stenopool.training.encoder_states import EncoderStates
from stenopool.training.examples import Bad
from stenopool.training.greedy import greedy
from stenopool.training.labels import LabelledWindow, Passage, labelled, timestamped
from stenopool.training.lessons import Lessons
from stenopool.training.sequences import UNLABELLED, Sequences, padded
from stenopool.training.setting import Outcome
from stenopool.training.student import TOKENS_AT_ONCE, Taught, logits, loss_of
from stenopool.training.whisper_models import Teacher, shortened, spaced, torch_model
from stenopool.training.window_audio import WindowAudio
from trainings import records, same, weights
from whisper_models import ENGLISH

ENVIRONMENT = {**os.environ, "STENO_OFFLINE": "1", "OMP_NUM_THREADS": "2", "NO_COLOR": "1"}
QUICK: dict[str, Any] = {"steps": 4, "evaluate_every": 2, "batch_seconds": 60.0, "greedy_tokens": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher`, and recordings with texts in `train` and `valid`."""
    folder = tmp_path_factory.mktemp("place")
    saved(whisper(), folder / "teacher")
    recordings(folder / "train", 6)
    recordings(folder / "valid", 2)
    return folder


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trained(
    place: Path, output: Path, *, resume: bool = False, teacher: Path | None = None, **more: Any
) -> Outcome:
    return train_distil(
        str(place / "train"),
        str(place / "valid"),
        output,
        teacher=teacher or place / "teacher",
        options=DistilOptions(**{**QUICK, **more}),
        resume=resume,
        device="cpu",
    )


# --- learning ---------------------------------------------------------------------------------


def test_student_learns_to_write_what_its_teacher_writes(place: Path, tmp_path: Path) -> None:
    windows = taught(place)
    for name in ("train", "valid"):
        manifest_of(tmp_path / name, windows)
    trained(
        tmp_path,
        tmp_path / "out",
        teacher=place / "teacher",
        steps=50,
        evaluate_every=10,
        batch_seconds=180.0,
        learning_rate=0.004,
        warmup=0.05,
        greedy_tokens=12,
    )
    found = [line["valid"] for line in records(tmp_path / "out") if "valid" in line]
    assert found[-1]["loss"] < 0.5 * found[0]["loss"]
    assert found[-1]["agreement"] > found[0]["agreement"] + 0.3


def taught(place: Path) -> list[LabelledWindow]:
    """Windows with what the teacher writes of them in greedy decoding."""
    model = read_whisper(place / "teacher")
    teacher = Teacher.of("teacher", "", model)
    whole = torch_model(model.weights, model.tokens)
    found = []
    audio = WindowAudio()
    for one in labelled(place / "train", Bad(stop=True)):
        features = log_mel(audio.samples(one), 80)
        with torch.no_grad():
            states = whole.model.encoder(torch.from_numpy(features)[None]).last_hidden_state
            (tokens,) = greedy(
                whole,
                states,
                [teacher.tokens.start, teacher.tokens.no_timestamps],
                said=model.weights.generation,
                end=teacher.tokens.end,
                most=12,
            )
        found.append(replace(one, tokens=tuple(tokens), tokenizer=teacher.tokenizer, text="taught"))
    audio.close()
    return found


def test_transformers_and_our_engine_read_the_student(place: Path, tmp_path: Path) -> None:
    from transformers import WhisperForConditionalGeneration

    trained(place, tmp_path / "out")
    model: Any = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.config.decoder_layers == 2
    ours = read_whisper(tmp_path / "out").weights
    assert ours.shape.decoder_layers == 2
    assert ours.generation.alignment_heads == ((0, 0), (1, 0))  # of layers 0 and 3
    name = "model.decoder.layers.1.fc1.weight"
    assert np.array_equal(ours.tensors[name], model.state_dict()[name].numpy())
    assert not torch.equal(
        model.state_dict()[name],
        torch.from_numpy(whisper().weights.tensors["model.decoder.layers.3.fc1.weight"]),
    )


def test_encoder_and_embeddings_stay_unless_they_are_to_learn(place: Path, tmp_path: Path) -> None:
    trained(place, tmp_path / "frozen")
    trained(place, tmp_path / "free", train_encoder=True, train_embeddings=True)
    teacher = whisper().weights.tensors
    for name in ("model.encoder.layers.0.fc1.weight", "model.decoder.embed_tokens.weight"):
        before = torch.from_numpy(teacher[name])
        assert torch.equal(weights(tmp_path / "frozen")[name], before)
        assert not torch.equal(weights(tmp_path / "free")[name], before)
    assert not (tmp_path / "free" / "encoder-states").exists()


@pytest.mark.parametrize(
    "more",
    [
        {"mask_time": 50, "mask_mel": 10, "noise": 0.5, "speed": 0.1},
        {"precision": "bf16"},
        {"split_tokens": 0.2},
        {"labels": "reference", "checkpointing": True, "accumulate": 2},
    ],
)
def test_options_train_too(place: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    ended = trained(place, tmp_path / "out", **more)
    assert ended.state.step == 4
    assert ended.state.best is not None
    hyper = json.loads((tmp_path / "out" / "hyperparameters.json").read_text())
    assert all(hyper["options"][name] == value for name, value in more.items())


def test_large_v3_and_its_languages_have_students_too(tmp_path: Path) -> None:
    saved(whisper(mel_bins=128, vocabulary=LARGE_V3, decoder_layers=3), tmp_path / "teacher")
    recordings(tmp_path / "train", 2, language="de")
    recordings(tmp_path / "valid", 2, language="en")
    trained(tmp_path, tmp_path / "out", steps=1, evaluate_every=1)
    found = read_whisper(tmp_path / "out")
    assert (found.weights.shape.mel_bins, found.weights.shape.decoder_layers) == (128, 2)
    assert len(found.tokens.languages) == 100


def test_recording_of_no_language_is_refused_where_there_are_many(tmp_path: Path) -> None:
    saved(whisper(vocabulary=LARGE_V3, decoder_layers=2), tmp_path / "teacher")
    recordings(tmp_path / "train", 2, language=None)
    recordings(tmp_path / "valid", 1)
    with pytest.raises(UsageError, match="names no language"):
        trained(tmp_path, tmp_path / "out")


# --- the student ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "student", "layers"),
    [
        (32, 2, (0, 31)),
        (6, 2, (0, 5)),
        (6, 3, (0, 2, 5)),
        (6, 4, (0, 2, 3, 5)),
        (4, 4, (0, 1, 2, 3)),
        (4, 1, (0,)),
    ],
)
def test_layers_are_as_far_apart_as_can_be(
    teacher: int, student: int, layers: tuple[int, ...]
) -> None:
    assert spaced(teacher, student) == layers


def test_more_layers_than_the_teacher_has_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="4 decoder layers"):
        trained(place, tmp_path / "out", decoder_layers=5)
    assert not (tmp_path / "out" / "hyperparameters.json").exists()


def test_student_with_all_layers_writes_what_its_teacher_writes() -> None:
    model = whisper()
    tokens = model.tokens
    teacher = torch_model(model.weights, tokens)
    student = torch_model(shortened(model.weights, (0, 1, 2, 3)), tokens)
    short = torch_model(shortened(model.weights, (0, 3)), tokens)
    batch = Taught(
        torch.tensor([[1, 2, 3]]), torch.tensor([1, 2]), torch.tensor([3, 4]), None, None
    )
    states = torch.randn(1, 1500, 64)
    assert torch.equal(logits(teacher, batch, states), logits(student, batch, states))
    assert not torch.allclose(logits(teacher, batch, states), logits(short, batch, states))


def test_padding_changes_nothing() -> None:
    model = torch_model(whisper().weights, whisper().tokens)
    alone = Taught(torch.tensor([[1, 2]]), torch.tensor([0, 1]), torch.tensor([]), None, None)
    read = torch.tensor([[1, 2, 9, 9], [5, 6, 7, 8]])
    beside = Taught(read, torch.tensor([0, 1]), torch.tensor([]), None, None)
    states = torch.randn(2, 1500, 64)
    assert torch.allclose(
        logits(model, alone, states[:1]), logits(model, beside, states), atol=1e-3
    )


def test_ctc_model_has_no_students(tmp_path: Path, place: Path) -> None:
    from ctc_models import write_model

    with pytest.raises(UnsupportedOption, match="no Whisper model"):
        trained(place, tmp_path / "out", teacher=write_model(tmp_path / "ctc"))


# --- the loss ---------------------------------------------------------------------------------


def test_loss_is_that_of_the_paper() -> None:
    random = np.random.default_rng(3)
    student, teacher = random.normal(size=(2, 5, 11))
    learned = random.integers(0, 11, 5)

    def softened(scores: Any, degree: float) -> Any:
        powers = np.exp(scores / degree - (scores / degree).max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    entropy = -np.log(softened(student, 1.0)[np.arange(5), learned]).sum()
    ours, theirs = softened(student, 2.0), softened(teacher, 2.0)
    divergence = (theirs * (np.log(theirs) - np.log(ours))).sum()
    found = loss_of(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        torch.from_numpy(learned),
        DistilOptions(),
    )
    assert float(found) == pytest.approx(0.8 * entropy + 1.0 * 4.0 * divergence, rel=1e-9)


def test_gradient_of_the_loss_is_the_true_one() -> None:
    torch.manual_seed(3)
    student = torch.randn(TOKENS_AT_ONCE + 5, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(TOKENS_AT_ONCE + 5, 7, dtype=torch.float64)
    learned = torch.randint(-1, 7, (len(student),))
    for options in (DistilOptions(), DistilOptions(ce_weight=0.0, temperature=3.0)):

        def loss(given: torch.Tensor, options: DistilOptions = options) -> torch.Tensor:
            return loss_of(given, teacher, learned, options)

        assert torch.autograd.gradcheck(loss, (student,))


def test_parts_of_the_loss_can_be_left_out() -> None:
    student, teacher = torch.randn(2, 5, 11)
    learned = torch.arange(5)
    entropy = torch.nn.functional.cross_entropy(student, learned, reduction="sum")
    only_labels = DistilOptions(ce_weight=1.0, kl_weight=0.0)
    assert loss_of(student, teacher, learned, only_labels).item() == pytest.approx(entropy.item())
    only_teacher = DistilOptions(ce_weight=0.0)
    assert loss_of(student, student, learned, only_teacher).item() == pytest.approx(0, abs=1e-5)
    with pytest.raises(UsageError, match="kl_weight"):
        DistilOptions(ce_weight=0.0, kl_weight=0.0)


# --- what is told -----------------------------------------------------------------------------


@pytest.fixture
def sequences(tmp_path: Path) -> Sequences:
    (tmp_path / "tokenizer.json").write_bytes(tokenizer())
    return Sequences(
        Vocabulary(tmp_path / "tokenizer.json"),
        "digits",
        multilingual=False,
        most=40,
        reference=False,
    )


def spoken(sequences: Sequences, id: str = "a", text: str = "it is") -> LabelledWindow:
    passages = (Passage(1.0, 3.0, text),)
    tokens = timestamped(passages, sequences.vocabulary)
    return window(id, text, passages=passages, tokens=tokens, tokenizer="digits")


def test_text_is_learned_with_or_without_times(sequences: Sequences) -> None:
    known = sequences.vocabulary
    one = spoken(sequences)
    text = tuple(b" it is")
    plain = sequences.sequence(one)
    assert plain.tokens == (known.start, known.no_timestamps, *text, known.end)
    first = known.first_timestamp
    timed = sequences.sequence(one, timestamps=True)
    assert timed.tokens == (known.start, first + 50, *text, first + 150, known.end)
    faster = sequences.sequence(one, timestamps=True, speed=2.0)
    assert faster.tokens == (known.start, first + 25, *text, first + 75, known.end)


def test_previous_text_is_told_and_not_learned(sequences: Sequences) -> None:
    known = sequences.vocabulary
    one, before = spoken(sequences), spoken(sequences, "b", "and what was said " * 3)
    found = sequences.sequence(one, previous=before)
    assert found.tokens[0] == known.previous
    assert found.tokens[found.start] == known.start
    assert len(found.tokens) <= 40
    read, places, learned = padded([found, sequences.sequence(one)], known.end)
    assert read.shape == (2, len(found.tokens) - 1)
    assert learned.tolist() == [
        *found.tokens[found.start + 1 :],
        *sequences.sequence(one).tokens[1:],
    ]
    assert read.flatten()[places[0]] == known.start


def test_tokens_of_another_tokenizer_are_made_anew(sequences: Sequences) -> None:
    other = replace(spoken(sequences), tokens=(1, 2, 3), tokenizer="other")
    assert sequences.label(other) == spoken(sequences).tokens


def test_reference_can_be_learned_instead(sequences: Sequences, tmp_path: Path) -> None:
    given = Sequences(sequences.vocabulary, "digits", multilingual=False, most=40, reference=True)
    one = replace(spoken(sequences), reference="it was")
    assert given.label(one) == tuple(b" it was")
    with pytest.raises(UsageError, match="no text"):
        given.label(spoken(sequences))


def test_text_that_the_decoder_cannot_hold_is_refused(sequences: Sequences) -> None:
    with pytest.raises(UsageError, match="room"):
        sequences.label(spoken(sequences, text="long " * 10))


def test_augmentation_follows_from_its_seed_and_keeps_to_30_s() -> None:
    options = DistilOptions(speed=0.3, noise=1.0, mask_time=100, mask_mel=20)
    random = np.random.default_rng(1)
    for _ in range(20):
        change = drawn(options, 25 * 16_000, random)
        assert 25 / change.speed <= 30.01
        assert change.noise is not None
        assert (change.mask_time, change.mask_mel) == (100, 20)
    sound = np.sin(np.arange(16_000) / 10).astype(np.float32)
    noisy = changed(sound, Change(noise=10.0, seed=4))
    assert np.array_equal(noisy, changed(sound, Change(noise=10.0, seed=4)))
    power = np.mean(np.square(sound)) / np.mean(np.square(noisy - sound))
    assert 10 * np.log10(power) == pytest.approx(10, abs=0.3)
    features = np.random.default_rng(2).normal(size=(80, 3000)).astype(np.float32)
    hidden = masked(features, Change(mask_time=100, mask_mel=20, seed=4), 1000)
    rows = (hidden == features.mean()).any(axis=1)
    assert rows.sum() > 0 and np.array_equal(hidden[:, 1000:][~rows], features[:, 1000:][~rows])


def test_window_sounds_the_same_wherever_it_lies_and_whatever_is_beside_it(
    sequences: Sequences,
) -> None:
    def changes(*windows: LabelledWindow) -> list[Change]:
        options = DistilOptions(noise=0.5, speed=0.1, copies=2)
        lessons = Lessons(
            windows, sequences, options, mel_bins=80, end=0, kept=None, bad=Bad(stop=True)
        )
        return [change for one, change in lessons.sounds() if one.id == "a"]

    here = window("a", "it is")
    there = replace(here, stretches=(replace(here.stretches[0], audio=Path("/elsewhere.wav")),))
    assert changes(here) == changes(window("b", "it was"), there)
    assert len(set(changes(here))) == 2


def test_tokens_told_as_two_spell_the_same_and_only_first_halves_are_no_labels(
    tmp_path: Path,
) -> None:
    words = tokenizer_of_words(
        [*(bytes([byte]) for byte in range(256)), b"it", b" it", b" is"], ENGLISH
    )
    (tmp_path / "tokenizer.json").write_bytes(words)
    known = Vocabulary(tmp_path / "tokenizer.json")
    sequences = Sequences(known, "digits", multilingual=False, most=64, reference=False)
    assert [known.text(both) for both in known.halves(known.encode(" it")[0])] == [" it"]
    plain = sequences.sequence(spoken(sequences, text="it is it is"), timestamps=True)
    found = sequences.split(plain, 0.99, np.random.default_rng(1))
    again = sequences.split(plain, 0.99, np.random.default_rng(1))
    assert found == again != plain
    assert known.text(found.tokens) == known.text(plain.tokens)
    _, _, learned = padded([found], known.end)
    assert len(found.split) == len(found.tokens) - len(plain.tokens) == 2
    assert (learned == UNLABELLED).sum() == len(found.split)
    assert set(learned.tolist()) - {UNLABELLED} <= set(found.tokens)
    full = Sequences(known, "digits", multilingual=False, most=len(plain.tokens), reference=False)
    assert full.split(plain, 0.99, np.random.default_rng(1)) == plain


def test_agreement_counts_every_token_that_is_otherwise() -> None:
    def said(own: tuple[int, ...], teacher: tuple[int, ...]) -> Said:
        return Said("a", "en", "", "", own, teacher, 0.0, 0.0)

    assert agreement([said((1, 2, 3), (1, 2, 3))]) == 1.0
    assert agreement([said((1, 2, 3), (1, 5, 3, 4)), said((), (1,))]) == pytest.approx(2 / 5)
    assert agreement([said((1, 2, 3), (4,))]) == 0.0


# --- going on ---------------------------------------------------------------------------------


def test_killed_and_resumed_it_is_what_it_would_have_been(place: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"steps": 6, "evaluate_every": 3}
    trained(place, tmp_path / "whole", **more)
    command = [
        *STENO, "train", "distil", "--train", str(place / "train"),
        "--valid", str(place / "valid"), "--output", str(tmp_path / "killed"),
        "--teacher", str(place / "teacher"), "--device", "cpu", "--steps", "6",
        "--evaluate-every", "3", "--batch-seconds", "60", "--greedy-tokens", "8",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 90
    while not (tmp_path / "killed" / "checkpoints" / "step-00000003").exists():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    shutil.rmtree(tmp_path / "killed" / "encoder-states")  # they are made again, and the same
    ended = trained(place, tmp_path / "killed", resume=True, **more)
    assert ended.state.step == 6
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_resuming_with_something_else_is_refused_by_name(place: Path, tmp_path: Path) -> None:
    trained(place, tmp_path / "out")
    for name in ("timestamps", "kl_weight"):
        more: dict[str, Any] = {name: 0.5}
        with pytest.raises(ResumeRefused, match=name):
            trained(place, tmp_path / "out", resume=True, **more)
    saved(whisper(positions=65), tmp_path / "other")
    with pytest.raises(ResumeRefused, match="teacher"):
        trained(place, tmp_path / "out", resume=True, teacher=tmp_path / "other")
    trained(place, tmp_path / "out", resume=True, cache_gb=1.0)  # of this nothing follows
    with pytest.raises(UsageError, match="holds a training"):
        trained(place, tmp_path / "out")


# --- the encoder's states ---------------------------------------------------------------------


def test_states_are_computed_once_and_change_nothing(place: Path, tmp_path: Path) -> None:
    trained(place, tmp_path / "kept")
    trained(place, tmp_path / "none", cache_gb=0.0)
    row = 1500 * 64 * 2
    trained(place, tmp_path / "some", cache_gb=3 * row / 1e9)
    assert same(weights(tmp_path / "kept"), weights(tmp_path / "none"))
    assert same(weights(tmp_path / "kept"), weights(tmp_path / "some"))
    (file,) = (tmp_path / "kept").glob("encoder-states/*/states.bf16")
    assert file.stat().st_size == 8 * row
    (file,) = (tmp_path / "some").glob("encoder-states/*/states.bf16")
    assert file.stat().st_size == 3 * row
    assert not list((tmp_path / "none").glob("encoder-states*"))


def test_copies_are_kept_too_and_change_nothing(place: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"noise": 1.0, "mask_time": 50, "copies": 3, "steps": 9}
    more |= {"split_tokens": 0.2, "evaluate_every": 9}
    trained(place, tmp_path / "kept", **more)
    trained(place, tmp_path / "anew", cache_gb=0.0, **more)
    trained(place, tmp_path / "others", **(more | {"copies": 2}))
    assert same(weights(tmp_path / "kept"), weights(tmp_path / "anew"))
    assert not same(weights(tmp_path / "kept"), weights(tmp_path / "others"))
    (file,) = (tmp_path / "kept").glob("encoder-states/*/states.bf16")
    assert file.stat().st_size == (3 * 6 + 2) * 1500 * 64 * 2


def test_states_are_gone_on_with(tmp_path: Path) -> None:
    asked: list[str] = []

    def compute(key: str) -> torch.Tensor:
        asked.append(key)
        if key == "c" and asked.count("c") == 1:
            raise KeyboardInterrupt
        return torch.full((2, 3), float(ord(key)))

    first = EncoderStates(tmp_path, (2, 3), 1000)
    with pytest.raises(KeyboardInterrupt):
        first.fill(first.wanted(["a", "b", "c"]), compute)
    first.close()
    again = EncoderStates(tmp_path, (2, 3), 1000)
    assert again.wanted(["a", "b", "c", "c"]) == ["c"]
    again.fill(["c"], compute)
    assert asked == ["a", "b", "c", "c"]
    for key in "abc":
        found = again.read(key)
        assert found is not None
        assert found.dtype == torch.bfloat16
        assert torch.equal(found.float(), torch.full((2, 3), float(ord(key))))
    assert again.read("d") is None
    again.close()


def test_states_keep_to_their_bound(tmp_path: Path) -> None:
    states = EncoderStates(tmp_path, (2, 3), 2 * 12 + 11)
    assert states.wanted(["a", "b", "c"]) == ["a", "b"]
    states.fill(["a", "b"], lambda key: torch.zeros(2, 3))
    assert states.wanted(["c"]) == []
    states.close()


def test_disk_without_room_is_noticed_before_any_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_states, "LEFT_FREE", 1 << 60)
    with pytest.raises(StorageFull, match=r"8 windows need 0\.0 GB"):
        trained(place, tmp_path / "out")
    (file,) = (tmp_path / "out").glob("encoder-states/*/states.bf16")
    assert file.stat().st_size == 0


def test_disk_that_fills_up_is_named_and_loses_nothing(tmp_path: Path) -> None:
    states = EncoderStates(tmp_path, (100, 100), 10**9)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(StorageFull):
            states.fill(["a", "b"], lambda key: torch.ones(100, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    states.close()
    again = EncoderStates(tmp_path, (100, 100), 10**9)
    assert again.wanted(["a", "b"]) == ["b"]
    again.fill(["b"], lambda key: torch.ones(100, 100))
    assert again.read("a") is not None and again.read("b") is not None
    again.close()


# --- bad data ---------------------------------------------------------------------------------


def test_windows_that_cannot_be_used_are_counted_or_stop(place: Path, tmp_path: Path) -> None:
    good = list(labelled(place / "train", Bad(stop=True)))
    missing = replace(
        good[0],
        id="gone",
        whole=True,
        stretches=(replace(good[0].stretches[0], audio=tmp_path / "gone.wav"),),
    )
    long = replace(good[1], id="long", text="word " * 40)
    twice = good[2]
    manifest_of(tmp_path / "train", [*good, missing, long, twice])
    recordings(tmp_path / "valid", 1)
    ended = trained(tmp_path, tmp_path / "out", teacher=place / "teacher", on_bad="skip")
    assert ended.left_out == {"usage": 3}
    told = json.loads((tmp_path / "out" / "left-out.json").read_text())
    assert [
        key in reason
        for key, reason in zip(
            ("gone.wav", "room", "two windows"), told["train"]["reasons"], strict=True
        )
    ] == [True] * 3
    with pytest.raises(UsageError, match=r"gone\.wav"):
        trained(tmp_path, tmp_path / "other", teacher=place / "teacher")


def test_recording_that_breaks_during_training_is_left_out_and_noted(
    tmp_path: Path, place: Path
) -> None:
    recordings(tmp_path / "train", 2)
    recordings(tmp_path / "valid", 2)
    (tmp_path / "train" / "001.wav").write_bytes(b"no sound")
    (tmp_path / "valid" / "000.wav").write_bytes(b"no sound")
    teacher = place / "teacher"
    for cache in (1.0, 0.0):
        ended = trained(
            tmp_path, tmp_path / f"{cache}", teacher=teacher, on_bad="skip", cache_gb=cache
        )
        assert ended.state.step == 4
        assert ended.left_out["not_media"] > 0
        found = [line["valid"] for line in records(ended.model) if "valid" in line]
        assert found[-1]["left_out"] == 1
    with pytest.raises(NotMedia):
        trained(tmp_path, tmp_path / "stops", teacher=teacher)


def test_command_is_there_without_pytorch() -> None:
    code = (
        "import sys, stenopool.cli; sys.exit('torch' in sys.modules or 'rapidfuzz' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
