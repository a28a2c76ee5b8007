"""The card of a model: what it was made of, what it was measured to be, and how it is opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stenopool import __version__
from stenopool.models.catalogue import CATALOGUE
from stenopool.models.formats.model import Whisper
from stenopool.models.local import LocalModel

UNKNOWN_LICENCE = "that of the source; nobody has told it here"
_LONGEST = 300  # characters of a cell
_RATES = ("after step", "WER %", "CER %", "agreement %", "words")
_DECISIONS = ("when", "of", "WER %", "beside", "WER %", "speed", "words", "outcome")

_OPENED = {
    "transformers": """\
```python
from transformers import pipeline

hear = pipeline("automatic-speech-recognition", "FOLDER")
print(hear("talk.wav", return_timestamps=True)["text"])
```

Candle's Whisper loader reads the same folder: `config.json`, `tokenizer.json` and
`model.safetensors`.""",
    "openai": """\
```python
import whisper

model = whisper.load_model("FOLDER/FILE")
print(model.transcribe("talk.wav")["text"])
```""",
    "ggml": """\
```sh
whisper-cli --model FOLDER/FILE talk.wav
```""",
    "ctranslate2": """\
```python
from faster_whisper import WhisperModel

model = WhisperModel("FOLDER")
segments, info = model.transcribe("talk.wav")
```""",
    "onnx": """\
```js
import { env, pipeline } from "@huggingface/transformers";

env.localModelPath = "THE FOLDER ABOVE THIS ONE";
const hear = await pipeline("automatic-speech-recognition", "NAME OF THIS FOLDER", {
  dtype: "DTYPE",
});
```""",
    "openvino": """\
```python
import openvino_genai

pipeline = openvino_genai.WhisperPipeline("FOLDER", "CPU")
print(pipeline.generate(samples, return_timestamps=True))  # float32, 16 kHz, mono
```""",
}


def export_card(
    model: LocalModel,
    whisper: Whisper,
    to: str,
    precision: str,
    file: str,
    facts: Mapping[str, Any],
    measured: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The text of the `README.md` of an export.

    Args:
        model: that was exported.
        to: the format, of `export.TARGETS`.
        file: the one that holds the model, where there is one.
        facts: what is known of the model; see `facts.facts_of`.
        measured: records of the decisions about it; see `promotions`.
    """
    shape = whisper.weights.shape
    rows = {
        "format": f"`{to}`",
        "precision": f"`{precision}`",
        "layers": f"{shape.encoder_layers} of the encoder, {shape.decoder_layers} of the decoder",
        "width": str(shape.width),
        "tokens": str(shape.vocabulary),
        "languages": str(len(whisper.tokens.languages) or "English only"),
    }
    dtype = "fp32" if precision == "float32" else "q8"
    opened = _OPENED[to].replace("FILE", file).replace("DTYPE", dtype)
    return _card(model.name, {**_source(model, facts), **rows}, facts, measured, opened)


def registered_card(model: LocalModel, record: Mapping[str, Any]) -> str:
    """The text of the `README.md` of a registered model, from its record."""
    source = record["source"]
    rows = {
        "source": f"`{source['name']}`",
        "SHA-256 of its weights": f"`{model.sha256}`",
        "licence": _licence(model, record),
        "parameters": f"{record['parameters'] / 1e6:.1f} million",
        "registered": record["time"],
    }
    opened = f"```sh\nsteno transcribe talk.wav --model {record['name']}\n```"
    return _card(record["name"], rows, record, (), opened)


def _card(
    title: str,
    rows: Mapping[str, str],
    facts: Mapping[str, Any],
    measured: Sequence[Mapping[str, Any]],
    opened: str,
) -> str:
    training = _mapping(facts.get("training"))
    rows = {**rows, **_training(training), "written by": f"Stenopool {__version__}"}
    parts = [f"# {_cell(title)}", _table(("", ""), rows.items())]
    if rates := list(_evaluations(training)):
        parts += ["## Word error rates while it was trained", _table(_RATES, rates)]
    if decisions := list(_decisions(measured)):
        parts += ["## Word error rates beside other models", _table(_DECISIONS, decisions)]
    return "\n\n".join([*parts, "## How to open it", opened]) + "\n"


def _source(model: LocalModel, facts: Mapping[str, Any]) -> dict[str, str]:
    entry = model.entry
    known = f" ({entry.description})" if entry else ", a user's model"
    return {
        "source": f"`{model.name}`{known}",
        "SHA-256 of its weights": f"`{model.sha256}`",
        "licence": _licence(model, facts),
    }


def _licence(model: LocalModel, facts: Mapping[str, Any]) -> str:
    """As it was told; else that of the catalogue, or of the teacher that most weights are of."""
    if told := facts.get("licence"):
        return str(told)
    if model.entry:
        return model.entry.licence
    teacher = _mapping(_mapping(facts.get("training")).get("teacher"))
    if known := CATALOGUE.get(str(teacher.get("name"))):
        return f"that of its teacher `{known.name}`: {known.licence}"
    return UNKNOWN_LICENCE


def _training(training: Mapping[str, Any]) -> dict[str, str]:
    """Rows of a table: from what, with what, and on which data it was trained."""
    rows = {}
    if teacher := _mapping(training.get("teacher")):
        rows["teacher"] = f"`{teacher.get('name')}`, SHA-256 `{teacher.get('sha256')}`"
        rows["decoder layers of the teacher"] = ", ".join(map(str, _listed(training.get("layers"))))
    if averaged := _listed(training.get("averaged")):
        rows["mean of the trainings"] = ", ".join(f"`{name}`" for name in averaged)
    if init := training.get("init"):
        rows["began with"] = f"`{init}`"
    for name, meaning in (("train", "trained on"), ("valid", "measured while trained with")):
        if data := _mapping(training.get(name)):
            rows[meaning] = _data(data)
    if licences := _mapping(training.get("licences")):
        told = (f"{licence}: {hours} h" for licence, hours in licences.items())
        rows["licences of what it was trained on"] = ", ".join(told)
    if found := _mapping(training.get("filter")):
        rows["labels kept"] = _filter(found)
    return {name: value for name, value in rows.items() if value}


def _data(data: Mapping[str, Any]) -> str:
    digest = data.get("sha256") or data.get("listing_sha256")
    return f"`{data.get('source')}`: {data.get('used')} items, {data.get('hours')} h, `{digest}`"


def _filter(told: Mapping[str, Any]) -> str:
    dropped = _mapping(told.get("dropped"))
    reasons = ", ".join(f"{_mapping(one).get('windows')} {why}" for why, one in dropped.items())
    kept = f"{told.get('kept')} of {told.get('windows')} windows, {told.get('kept_hours')} h"
    return f"{kept}; dropped: {reasons or 'none'}; bounds: {_pairs(told.get('bounds'))}"


def _pairs(values: object) -> str:
    return ", ".join(f"{name} {value}" for name, value in _mapping(values).items())


def _evaluations(training: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for one in _listed(training.get("evaluations")):
        said = _mapping(one)
        step = f"{said.get('step')}{' (this model)' if said.get('best') else ''}"
        rates = (_percent(said.get(name)) for name in ("wer", "cer", "agreement"))
        yield step, *rates, _whole(said.get("words"))


def _decisions(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for one in records:
        ours, theirs = (_mapping(one.get(name)) for name in ("candidate", "default"))
        if ours and theirs:
            data = _mapping(one.get("data"))
            yield (
                str(one.get("time")),
                ", ".join(map(str, _listed(data.get("sources")))),
                _percent(ours.get("wer")),
                f"`{one.get('instead_of')}`",
                _percent(theirs.get("wer")),
                f"{_mapping(one.get('found')).get('speed_ratio')}x",
                _whole(data.get("words")),
                str(one.get("outcome")),
            )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    """One line that ends no cell, whoever wrote it."""
    text = " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
    return f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text


def _percent(value: object) -> str:
    return f"{100 * value:.2f}" if isinstance(value, float) else "–"


def _whole(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, float) else "–" if value is None else str(value)


def _listed(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
