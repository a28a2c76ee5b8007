"""Training with CTC: what it learns, and that Transformers reads what it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sounds import tone, write_wav
from stenopool.errors import (
    ModelDamaged,
    NotMedia,
    ResumeRefused,
    StorageFull,
    TrainingDiverged,
    UsageError,
)
from stenopool.models.facts import training_facts
from stenopool.training import loop
from stenopool.training.ctc import CtcTask
from stenopool.training.options import CtcOptions
from stenopool.training.run import Outcome, train_ctc
from trainings import manifest, micro_model, records, same, spoken, spoken_set, weights

LEARNING_STEPS = 240


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train` and `valid`, a few recordings each."""
    folder = tmp_path_factory.mktemp("data")
    spoken_set(folder / "train", 12, seed=1)
    spoken_set(folder / "valid", 4, seed=2)
    return folder


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro_model(tmp_path_factory.mktemp("micro"))


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trained(
    data: Path,
    output: Path,
    init: Path | str,
    *,
    resume: bool = False,
    vocabulary: Path | None = None,
    **options: Any,
) -> Outcome:
    chosen = {"steps": 6, "evaluate_every": 3, "batch_seconds": 3.0, "learning_rate": 0.01}
    return train_ctc(
        str(data / "train"),
        str(data / "valid"),
        output,
        init=str(init),
        options=CtcOptions(**{**chosen, **options}),
        vocabulary=vocabulary,
        resume=resume,
        device="cpu",
    )


def test_words_of_tones_are_learned_from_nothing_within_a_minute(tmp_path: Path) -> None:
    spoken_set(tmp_path / "train", 120, seed=1)
    spoken_set(tmp_path / "valid", 20, seed=2)
    trained(
        tmp_path,
        tmp_path / "out",
        "tiny",
        steps=LEARNING_STEPS,
        evaluate_every=LEARNING_STEPS // 4,
        batch_seconds=8.0,
        learning_rate=0.002,
        dropout=0.0,
        mask_time=0.0,
        mask_feature=0.0,
    )
    rates = [line["valid"]["wer"] for line in records(tmp_path / "out") if "valid" in line]
    assert rates[0] > 0.9
    assert rates[-1] < 0.2
    assert (
        min(rates)
        == json.loads(
            (sorted((tmp_path / "out" / "checkpoints").iterdir())[-1] / "state.json").read_text()
        )["best"]
    )


def test_transformers_reads_what_was_trained_and_hears_the_same(
    data: Path, micro: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCTC, AutoProcessor

    trained(data, tmp_path / "out", micro)
    model = AutoModelForCTC.from_pretrained(tmp_path / "out").eval()
    load: Any = AutoProcessor.from_pretrained  # it has no types
    processor = load(tmp_path / "out")
    assert type(model).__name__ == "Wav2Vec2ForCTC"
    assert processor.tokenizer.pad_token_id == model.config.pad_token_id
    assert processor.tokenizer("ab ea").input_ids == [0, 1, 4, 3, 0]
    best = max(sorted((tmp_path / "out" / "checkpoints").iterdir()))
    again = AutoModelForCTC.from_pretrained(best).eval()
    sound = spoken("ab ea", np.random.default_rng(9)).astype(np.float32)
    heard = processor(sound, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        logits = model(**heard).logits
        assert logits.shape[-1] == 7
        assert again(**heard).logits.shape == logits.shape
    assert isinstance(processor.batch_decode(logits.argmax(-1))[0], str)
    vocabulary = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert vocabulary == {"a": 0, "b": 1, "d": 2, "e": 3, "|": 4, "[UNK]": 5, "[PAD]": 6}


def test_folder_holds_the_best_model_and_the_records(
    data: Path, micro: Path, tmp_path: Path
) -> None:
    ended = trained(data, tmp_path / "out", micro)
    names = {path.name for path in (tmp_path / "out").iterdir() if "tfevents" not in path.name}
    assert names >= {
        "config.json",
        "model.safetensors",
        "vocab.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "hyperparameters.json",
        "metrics.jsonl",
        "samples.jsonl",
        "left-out.json",
        "loss.png",
        "wer.png",
        "checkpoints",
    }
    assert len(list((tmp_path / "out").glob("events.out.tfevents.*"))) == 1
    told = json.loads((tmp_path / "out" / "hyperparameters.json").read_text())
    assert told["options"]["learning_rate"] == 0.01
    assert told["train"]["used"] == 12
    assert len(told["train"]["listing_sha256"]) == 64
    assert told["licences"].keys() == {"not told"}
    facts = training_facts(tmp_path / "out")
    assert facts
    assert facts["train"]["hours"] == told["train"]["hours"]
    (best,) = (one for one in facts["evaluations"] if one["best"])
    assert (best["step"], best["wer"]) == (ended.state.best_step, ended.state.best)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["language"] == "eo"
    assert {"id", "reference", "hypothesis", "step"} == records(tmp_path / "out", "samples")[
        0
    ].keys()
    best = tmp_path / "out" / "checkpoints" / f"step-{ended.state.best_step:08}"
    assert (best / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model.safetensors"
    ).read_bytes()


def test_manifest_is_known_by_its_sha_256(data: Path, micro: Path, tmp_path: Path) -> None:
    import hashlib

    source = data / "train" / "manifest.jsonl"
    train_ctc(
        str(source),
        str(data / "valid"),
        tmp_path / "out",
        init=str(micro),
        options=CtcOptions(steps=1, batch_seconds=3),
        device="cpu",
    )
    told = json.loads((tmp_path / "out" / "hyperparameters.json").read_text())
    assert told["train"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()


def test_feature_encoder_of_given_weights_stays_as_it_was(
    data: Path, micro: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    before = load_file(micro / "model.safetensors")
    trained(data, tmp_path / "frozen", micro)
    trained(data, tmp_path / "free", micro, freeze="no")
    name = "feature_extractor.conv_layers.0.conv.weight"
    frozen, free = weights(tmp_path / "frozen"), weights(tmp_path / "free")
    assert torch.equal(frozen[f"wav2vec2.{name}"], before[name])
    assert not torch.equal(free[f"wav2vec2.{name}"], before[name])
    other = "encoder.layers.0.feed_forward.output_dense.weight"
    assert not torch.equal(frozen[f"wav2vec2.{other}"], before[other])


def test_trained_model_goes_on_with_its_own_vocabulary_and_head(
    data: Path, micro: Path, tmp_path: Path
) -> None:
    trained(data, tmp_path / "first", micro)
    first = weights(tmp_path / "first")
    # What Transformers itself would start with: the head is not made anew.
    trained(data, tmp_path / "second", tmp_path / "first", steps=1, learning_rate=1e-9)
    second = weights(tmp_path / "second")
    assert torch.allclose(first["lm_head.weight"], second["lm_head.weight"], atol=0.2)
    assert (tmp_path / "second" / "vocab.json").read_bytes() == (
        tmp_path / "first" / "vocab.json"
    ).read_bytes()


def test_given_vocabulary_is_used_and_what_is_outside_is_left_out(
    data: Path, micro: Path, tmp_path: Path
) -> None:
    path = tmp_path / "vocab.json"
    path.write_text('{"[PAD]": 0, "|": 1, "a": 2, "b": 3, "e": 4, "[UNK]": 5}')
    with pytest.raises(UsageError, match="not in the vocabulary: 'd'"):
        trained(data, tmp_path / "stopped", micro, vocabulary=path)
    assert not (tmp_path / "stopped").exists()
    ended = trained(data, tmp_path / "out", micro, vocabulary=path, on_bad="skip")
    assert ended.left_out["outside_vocabulary"] > 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] == 0
    listed = json.loads((tmp_path / "out" / "left-out.json").read_text())
    assert listed["train"]["counts"] == {"outside_vocabulary": ended.left_out["outside_vocabulary"]}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 2, "join": 3, "checkpointing": True},
        {"precision": "bf16"},
        {"precision": "fp16"},
    ],
)
def test_training_that_was_stopped_goes_on_to_the_same_weights(
    data: Path,
    micro: Path,
    tmp_path: Path,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained(data, tmp_path / "whole", micro, **options)

    class CrashError(Exception):
        pass

    real = CtcTask.loss
    calls = 0

    def crashing(self: CtcTask, *given: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 4 * options.get("accumulate", 1):
            raise CrashError
        return real(self, *given)

    monkeypatch.setattr(CtcTask, "loss", crashing)
    with pytest.raises(CrashError):
        trained(data, tmp_path / "again", micro, **options)
    monkeypatch.setattr(CtcTask, "loss", real)
    np.random.seed(77)
    torch.manual_seed(77)
    trained(data, tmp_path / "again", micro, resume=True, **options)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "again"))
    ours, theirs = (
        [line.get("valid") for line in records(tmp_path / name)] for name in ("whole", "again")
    )
    assert ours == theirs


def test_what_is_drawn_follows_from_the_step_and_nothing_else() -> None:
    drawn = []
    for step in (4, 5, 4):
        loop.seeded(1, step, 0)
        drawn.append((np.random.random(), torch.rand(1).item()))
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learning_rate": 0.02}, "`learning_rate` was 0.01 and is 0.02"),
        ({"seed": 5}, "`seed` was 0 and is 5"),
        ({"steps": 60}, "`steps` was 6 and is 60"),
    ],
)
def test_resuming_with_other_hyper_parameters_is_refused_by_name(
    data: Path, micro: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    trained(data, tmp_path / "out", micro)
    before = (tmp_path / "out" / "hyperparameters.json").read_bytes()
    with pytest.raises(ResumeRefused) as caught:
        trained(data, tmp_path / "out", micro, resume=True, **changed)
    assert said in str(caught.value)
    assert (tmp_path / "out" / "hyperparameters.json").read_bytes() == before


def test_resuming_with_other_data_is_refused_by_name(micro: Path, tmp_path: Path) -> None:
    for name, count in (("train", 6), ("valid", 2)):
        spoken_set(tmp_path / name, count, seed=count)
    trained(tmp_path, tmp_path / "out", micro, steps=1)
    spoken_set(tmp_path / "train", 7, seed=6)
    with pytest.raises(ResumeRefused, match=r"train: .*`recordings` was 6 and is 7"):
        trained(tmp_path, tmp_path / "out", micro, steps=1, resume=True)


def test_what_the_result_does_not_depend_on_may_change(
    data: Path, micro: Path, tmp_path: Path
) -> None:
    trained(data, tmp_path / "out", micro)
    ended = trained(data, tmp_path / "out", micro, resume=True, workers=1, cache_mb=0)
    assert ended.state.step == 6


def test_folder_with_a_training_is_left_alone(data: Path, micro: Path, tmp_path: Path) -> None:
    trained(data, tmp_path / "out", micro, steps=1)
    with pytest.raises(UsageError, match="holds a training or a model already"):
        trained(data, tmp_path / "out", micro, steps=1)
    with pytest.raises(UsageError, match="holds a training or a model already"):
        trained(data, micro, micro, steps=1)


def test_loss_that_is_no_number_is_named_and_nothing_is_lost(
    data: Path, micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CtcTask.loss
    calls = 0

    def breaking(self: CtcTask, *given: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(self, *given) * (float("nan") if calls == 5 else 1.0)

    monkeypatch.setattr(CtcTask, "loss", breaking)
    with pytest.raises(TrainingDiverged, match="the loss is nan in step 5") as caught:
        trained(data, tmp_path / "out", micro)
    assert "step-00000003" in caught.value.do
    held = weights(tmp_path / "out")
    assert all(torch.isfinite(one).all() for one in held.values())
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-00000003"]


def test_gradient_that_is_no_number_is_named(
    data: Path, micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CtcTask.loss
    monkeypatch.setattr(
        CtcTask, "loss", lambda self, *given: real(self, *given) + _infinite_slope(self.model)
    )
    with pytest.raises(TrainingDiverged, match="the gradient is "):
        trained(data, tmp_path / "out", micro)


def _infinite_slope(model: Any) -> torch.Tensor:
    return torch.sqrt((model.lm_head.bias * 0.0).square().sum())  # 0, whose slope is 0 / 0


def test_full_disk_is_named_and_the_checkpoint_before_stays(
    data: Path, micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CtcTask.save
    calls = 0

    def full(self: CtcTask, folder: Path) -> None:
        nonlocal calls
        calls += 1
        real(self, folder)
        if calls == 2:
            raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(CtcTask, "save", full)
    with pytest.raises(StorageFull, match="step-00000006"):
        trained(data, tmp_path / "out", micro)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-00000003"]
    monkeypatch.setattr(CtcTask, "save", real)
    trained(data, tmp_path / "out", micro, resume=True)
    trained(data, tmp_path / "whole", micro)
    assert same(weights(tmp_path / "out"), weights(tmp_path / "whole"))


def test_recording_that_breaks_on_the_way_is_named_or_counted(micro: Path, tmp_path: Path) -> None:
    for name, count in (("train", 8), ("valid", 2)):
        spoken_set(tmp_path / name, count, seed=count)
    (tmp_path / "train" / "003.wav").write_text("no sound, and a manifest that claims some")
    with pytest.raises(NotMedia, match=r"003\.wav"):
        trained(tmp_path, tmp_path / "stopped", micro)
    ended = trained(tmp_path, tmp_path / "out", micro, on_bad="skip", steps=3)
    assert ended.left_out["not_media"] >= 1
    assert "003.wav" in (tmp_path / "out" / "left-out.json").read_text()


def test_recording_that_is_shorter_than_claimed_is_named(micro: Path, tmp_path: Path) -> None:
    spoken_set(tmp_path / "valid", 2, seed=2)
    write_wav(tmp_path / "train.wav", tone(0.05))
    (tmp_path / "train").mkdir()
    line = {"id": "x", "audio": "../train.wav", "text": "abab", "duration": 2.0}
    manifest(tmp_path / "train", [line])
    with pytest.raises(UsageError, match=r"has 0\.05 s, its manifest claims 2\.00 s"):
        trained(tmp_path, tmp_path / "out", micro)


def test_other_sample_rates_are_heard_as_what_they_are(micro: Path, tmp_path: Path) -> None:
    spoken_set(tmp_path / "valid", 2, seed=2)
    (tmp_path / "train").mkdir()
    lines: list[dict[str, object]] = []
    for rate in (8000, 44_100):
        sound = spoken("ab", np.random.default_rng(3), rate=rate)
        write_wav(tmp_path / "train" / f"{rate}.wav", sound, rate=rate)
        lines.append({"audio": f"{rate}.wav", "text": "ab"})
    manifest(tmp_path / "train", lines)
    ended = trained(tmp_path, tmp_path / "out", micro, steps=2)
    told = json.loads((tmp_path / "out" / "hyperparameters.json").read_text())
    assert told["train"]["hours"] == pytest.approx(2 * 0.3 / 3600, rel=0.4)
    assert ended.left_out == {}


def test_training_stops_where_it_gets_no_better(data: Path, micro: Path, tmp_path: Path) -> None:
    ended = trained(
        data, tmp_path / "out", micro, steps=50, evaluate_every=1, patience=2, learning_rate=1e-9
    )
    assert (ended.state.step, ended.state.best_step) == (3, 1)


def test_folder_that_is_no_model_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelDamaged, match=r"no `config\.json`"):
        trained(data, tmp_path / "out", tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(UsageError, match="is a `whisper` model"):
        trained(data, tmp_path / "out", tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(ModelDamaged, match="cannot be loaded"):
        trained(data, tmp_path / "out", tmp_path / "empty")


def test_waiting_for_data_and_memory_are_recorded(data: Path, micro: Path, tmp_path: Path) -> None:
    trained(data, tmp_path / "out", micro, steps=20, evaluate_every=10)
    found = records(tmp_path / "out")
    assert all(0 <= line["waiting"] <= 1 for line in found if "waiting" in line)
    assert all(line["memory_mb"] > 10 for line in found if "valid" in line)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"precision": "int8"},
        {"on_bad": "ignore"},
        {"freeze": "maybe"},
        {"warmup": 1.5},
        {"join": 0},
        {"min_seconds": 5.0, "max_seconds": 2.0},
        {"dropout": 1.0},
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        CtcOptions(**options)
    assert f"`{list(options)[-1]}`" in str(caught.value)


def test_learning_rate_rises_and_falls_in_lines() -> None:
    options = CtcOptions(steps=100, warmup=0.1, learning_rate=1.0)
    rates = [options.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(1 / 90)
    assert CtcOptions(steps=1).learning_rate_at(0) > 0
