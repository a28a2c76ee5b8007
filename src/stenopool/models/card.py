"""The card of an exported model: what it was made of, and how it is opened."""

from __future__ import annotations

from stenopool import __version__
from stenopool.models.formats.model import Whisper
from stenopool.models.local import LocalModel

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


def card(model: LocalModel, whisper: Whisper, to: str, precision: str, file: str) -> str:
    """The text of a `README.md`.

    Args:
        model: that was exported.
        to: the format, of `export.TARGETS`.
        file: the one that holds the model, where there is one.
    """
    shape, entry = whisper.weights.shape, model.entry
    rows = {
        "source": f"`{model.name}`" + (f" ({entry.description})" if entry else ", a user's model"),
        "SHA-256 of its weights": f"`{model.sha256}`",
        "licence": entry.licence if entry else "that of the source; nobody has told it here",
        "format": f"`{to}`",
        "precision": f"`{precision}`",
        "layers": f"{shape.encoder_layers} of the encoder, {shape.decoder_layers} of the decoder",
        "width": str(shape.width),
        "tokens": str(shape.vocabulary),
        "languages": str(len(whisper.tokens.languages) or "English only"),
        "written by": f"Stenopool {__version__}",
    }
    dtype = "fp32" if precision == "float32" else "q8"
    opened = _OPENED[to].replace("FILE", file).replace("DTYPE", dtype)
    told = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"# {model.name}\n\n| | |\n|---|---|\n{told}\n\n## How to open it\n\n{opened}\n"
