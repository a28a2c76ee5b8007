"""A distillation from its sources to its folder: what is checked before, and what is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stenopool.errors import UnsupportedOption, UsageError
from stenopool.files import make_folder
from stenopool.models import Store
from stenopool.models.formats.reading import read_whisper
from stenopool.models.weights import AUDIO_POSITIONS
from stenopool.training.distil_options import CACHE, DistilOptions
from stenopool.training.encoder_states import GIGABYTE, EncoderStates, key_of
from stenopool.training.examples import Bad, bad_items
from stenopool.training.extras import PACKAGES, check_extras
from stenopool.training.labels import LabelledWindow, labelled
from stenopool.training.options import that_matter
from stenopool.training.provenance import filter_report, licences
from stenopool.training.sequences import Sequences
from stenopool.training.setting import (
    Outcome,
    accelerator_for,
    begin,
    refuse_what_is_there,
    run,
    say_left_out,
    versions,
)
from stenopool.training.whisper_models import Teacher

if TYPE_CHECKING:
    from accelerate import Accelerator

    from stenopool.models import Report
    from stenopool.training.distil import DistilTask
    from stenopool.training.task import Progress

STATES = "encoder-states"
NEEDED = (*PACKAGES, "whisper_normalizer")


def train_distil(
    train: str,
    valid: str,
    output: Path,
    *,
    teacher: str | Path = "base",
    options: DistilOptions | None = None,
    cache: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    report: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda message: None,
    pulled: Report | None = None,
) -> Outcome:
    """Distil a model, or go on with a distillation.

    Args:
        train: windows of `steno data pseudo-label` or `steno data filter`.
        valid: the same, or recordings of up to 30 s with their texts.
        output: gets the best student and the records.
        teacher: catalogue name, or a folder.
        cache: where the encoder's states are kept; in `output` by default.
        resume: go on from the last checkpoint of `output`, if there is one.
        device: `auto`, `cpu` or `cuda`.
        report: called after each step.
        say: is told what is worth a line.
        pulled: told of the progress when the teacher is pulled.

    Raises:
        StenoError: by name; what the folder held before is as it was.
    """
    check_extras(NEEDED)
    from stenopool.training.distil import DistilTask
    from stenopool.training.models import hush, parameters

    hush()
    options = options or DistilOptions()
    accelerator = accelerator_for(options, device)
    main = accelerator.is_main_process
    if main:  # to the others, what it writes would be there already
        refuse_what_is_there(output, resume=resume)
    known = load_teacher(teacher, pulled)
    bad, bad_valid = bad_items(options.on_bad), bad_items(options.on_bad)
    sequences = _sequences(known, options)
    learned = usable(train, sequences, bad, "train on")
    measured = usable(valid, sequences, bad_valid, "evaluate with")
    if main:
        make_folder(output)
    accelerator.wait_for_everyone()
    states = _states(cache or output / STATES, known, options)
    with closing(states) if states else nullcontext():
        task = DistilTask(known, learned, measured, sequences, options, states, bad)
        record = {
            "kind": "distil",
            "teacher": {"name": known.name, "sha256": known.sha256},
            "layers": list(task.layers),
            "options": {k: v for k, v in that_matter(options).items() if k not in CACHE},
            "train": _record(train, learned),
            "valid": _record(valid, measured),
            "processes": accelerator.num_processes,
        }
        told = {
            **record,
            "licences": licences(learned),
            "filter": filter_report(train),
            **parameters(task.model),
            "shape": asdict(known.weights.shape),
            "versions": versions(),
            "device": str(accelerator.device),
        }
        if main:
            begin(output, record, told, (bad, bad_valid))
            _announce(say, told, (bad, bad_valid))
        with closing(task):
            if states:
                _keep(task, states, accelerator, say)
            accelerator.wait_for_everyone()
            if states:
                states.refresh()
            return run(task, options, output, accelerator, report, (bad, bad_valid))


def load_teacher(name: str | Path, report: Report | None = None) -> Teacher:
    """A teacher by name or folder.

    Raises:
        UnsupportedOption: it is no Whisper model.
        ModelError, UnknownName: it cannot be had, or is damaged.
    """
    model = Store().resolve(name, report=report)
    if model.kind != "whisper":
        raise UnsupportedOption(
            f"`{model.name}` is no Whisper model, so no student can be made of it",
            do="It can still label: give it to `steno data pseudo-label`",
        )
    return Teacher.of(model.name, model.sha256, read_whisper(model.folder))


def usable(source: str, sequences: Sequences, bad: Bad, purpose: str) -> list[LabelledWindow]:
    """The windows of a source whose label fits into the decoder.

    Raises:
        InputError, UsageError: the source cannot be read, or a window cannot be used and the first
            one stops, or there is none.
    """
    found, seen = [], set()
    for one in labelled(source, bad):
        try:
            if one.id in seen:
                raise UsageError(f"`{source}`: two windows are called `{one.id}`", do="Rename one")
            if not all(part.audio.is_file() for part in one.stretches):
                missing = next(part.audio for part in one.stretches if not part.audio.is_file())
                raise UsageError(f"`{source}`: no such file: `{missing}`", do="Check the path")
            sequences.label(one)
        except UsageError as error:
            bad(error)
            continue
        seen.add(one.id)
        found.append(one)
    if not found:
        raise UsageError(
            f"`{source}` has no window to {purpose}",
            do="Make windows with `steno data pseudo-label`",
        )
    return found


def _sequences(teacher: Teacher, options: DistilOptions) -> Sequences:
    return Sequences(
        teacher.vocabulary,
        teacher.tokenizer,
        multilingual=bool(teacher.tokens.languages),
        most=teacher.weights.shape.text_positions,
        reference=options.labels == "reference",
    )


def _states(folder: Path, teacher: Teacher, options: DistilOptions) -> EncoderStates | None:
    """Where the encoder's states are kept; nowhere, if they are others in every epoch."""
    if options.train_encoder or not options.sounds or not options.cache_gb:
        return None
    shape = (AUDIO_POSITIONS, teacher.weights.shape.width)
    name = f"{teacher.sha256[:16]}-{options.precision}"
    return EncoderStates(folder / name, shape, round(options.cache_gb * GIGABYTE))


def _keep(
    task: DistilTask,
    states: EncoderStates,
    accelerator: Accelerator,
    say: Callable[[str], None],
) -> None:
    """Compute what is not kept yet; the first process does, the others wait.

    Raises:
        StorageFull: the disk has no room for it.
    """
    if not accelerator.is_main_process:
        return
    sounds = task.sounds()
    wanted = states.wanted(sounds)
    size = len(wanted) * states.row_bytes / GIGABYTE
    left_out = len(sounds) - states.held(sounds) - len(wanted)
    states.check_room(len(wanted))
    if not wanted and not left_out:
        return
    more = f"; {left_out} more do not fit into `--cache-gb`" if left_out else ""
    say(f"what the encoder makes of {len(wanted)} windows will take {size:.2f} GB{more}")
    chosen = {key: sounds[key] for key in wanted}
    task.keep_states(accelerator.device, chosen, _Tenths(len(wanted), say))


class _Tenths:
    """Tells of each tenth that is done."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self._total, self._say = total, say

    def __call__(self, done: int) -> None:
        if done * 10 // self._total != (done - 1) * 10 // self._total:
            self._say(f"encoded {done} of {self._total} windows")


def _record(source: str, windows: Iterable[LabelledWindow]) -> dict[str, object]:
    """What identifies a set of windows: what is learned of which audio."""
    listing = hashlib.sha256()
    count, seconds = 0, 0.0
    for one in windows:
        known = [one.id, one.text, one.reference, list(one.tokens), one.previous, key_of(one)]
        listing.update(json.dumps(known).encode())
        count, seconds = count + 1, seconds + one.seconds
    return {
        "source": source,
        "listing_sha256": listing.hexdigest(),
        "used": count,
        "hours": round(seconds / 3600, 4),
    }


def _announce(say: Callable[[str], None], told: dict[str, Any], bad: tuple[Bad, Bad]) -> None:
    train, valid = told["train"], told["valid"]
    say(
        f"training on {train['used']} windows, {train['hours']:.2f} h; "
        f"measuring with {valid['used']}, {valid['hours']:.2f} h"
    )
    say(
        f"decoder layers {', '.join(map(str, told['layers']))} of "
        f"{told['shape']['decoder_layers']}; {told['parameters'] / 1e6:.2f} million parameters, "
        f"{told['trained_parameters'] / 1e6:.2f} trained; on {told['device']}"
    )
    say_left_out(say, *bad)
