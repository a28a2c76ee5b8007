"""A training from its sources to its folder: what is checked before it begins, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stenopool.training.examples import (
    Bad,
    DataSet,
    bad_items,
    collapsed,
    data_set,
    evaluation_examples,
    total_seconds,
    training_examples,
)
from stenopool.training.extras import check_extras
from stenopool.training.options import CtcOptions, that_matter
from stenopool.training.provenance import licences
from stenopool.training.setting import (
    Outcome,
    accelerator_for,
    begin,
    refuse_what_is_there,
    run,
    say_left_out,
    versions,
)
from stenopool.training.vocabulary import Vocabulary

if TYPE_CHECKING:
    from stenopool.training.task import Progress

__all__ = ["Outcome", "train_ctc"]


def train_ctc(
    train: str,
    valid: str,
    output: Path,
    *,
    init: str,
    options: CtcOptions | None = None,
    vocabulary: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    report: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda message: None,
) -> Outcome:
    """Train a CTC model, or go on with a training.

    Args:
        train, valid: sources as `stenopool.data.read` knows them.
        output: gets the best model, as Transformers expects it, and the records.
        init: `tiny`, a folder in Transformers' layout, or an id of the Hugging Face Hub.
        vocabulary: a `vocab.json`; otherwise that of `init`, or the characters of `train`.
        resume: go on from the last checkpoint of `output`, if there is one.
        device: `auto`, `cpu` or `cuda`.
        report: called after each step.
        say: is told what is worth a line.

    Raises:
        StenoError: by name; what the folder held before is as it was.
    """
    check_extras()
    from stenopool.training.ctc import CtcTask
    from stenopool.training.models import ctc_model, hush, parameters, processor

    hush()
    options = options or CtcOptions()
    accelerator = accelerator_for(options, device)
    if accelerator.is_main_process:  # to the others, what it writes would be there already
        refuse_what_is_there(output, resume=resume)
    bad, bad_valid = bad_items(options.on_bad), bad_items(options.on_bad)
    learned, measured = data_set(train, bad), data_set(valid, bad_valid)
    known = _vocabulary(vocabulary, init, learned)
    model = ctc_model(init, known, options)
    languages = {one.language for one in learned.recordings}
    if len(languages) == 1 and (language := languages.pop()):
        model.config.language = language  # transcripts of the model say it
    frames = _frames(model)
    examples = training_examples(learned, known, frames, options, bad)
    evaluated = evaluation_examples(measured, known, bad_valid)
    record = {
        "kind": "ctc",
        "init": init,
        "options": that_matter(options),
        "vocabulary": known.numbers,
        "train": learned.record() | _amount(examples),
        "valid": measured.record() | _amount(evaluated),
        "processes": accelerator.num_processes,
    }
    told = {
        **record,
        "licences": licences(learned.recordings),
        **parameters(model),
        "versions": versions(),
        "device": str(accelerator.device),
    }
    if accelerator.is_main_process:
        begin(output, record, told, (bad, bad_valid))
        _announce(say, record, told, (bad, bad_valid))
    accelerator.wait_for_everyone()
    task = CtcTask(model, processor(known, init, model), known, examples, evaluated, options, bad)
    return run(task, options, output, accelerator, report, (bad, bad_valid))


def _vocabulary(given: Path | None, init: str, train: DataSet) -> Vocabulary:
    from stenopool.training.models import own_vocabulary

    if given is not None:
        return Vocabulary.read(given)
    found = own_vocabulary(init)
    return found or Vocabulary.of(collapsed(one.text or "") for one in train.recordings)


def _frames(model: Any) -> Callable[[int], int]:  # noqa: ANN401
    return lambda samples: int(model._get_feat_extract_output_lengths(samples))


def _amount(examples: Any) -> dict[str, object]:  # noqa: ANN401
    return {"used": len(examples), "hours": round(total_seconds(examples) / 3600, 4)}


def _announce(
    say: Callable[[str], None],
    record: Mapping[str, Any],
    told: Mapping[str, Any],
    bad: tuple[Bad, Bad],
) -> None:
    train, valid = record["train"], record["valid"]
    say(
        f"training on {train['used']} recordings, {train['hours']:.2f} h; "
        f"measuring with {valid['used']}, {valid['hours']:.2f} h"
    )
    say(
        f"{len(record['vocabulary'])} tokens; {told['parameters'] / 1e6:.2f} million parameters, "
        f"{told['trained_parameters'] / 1e6:.2f} trained; on {told['device']}"
    )
    say_left_out(say, *bad)
