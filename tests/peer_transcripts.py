"""What another project hears with a model of ours: `python peer_transcripts.py PEER MODEL SOUND…`.

Sounds are files of float32 at 16 kHz, of less than 30 s. Everybody decodes alike: greedily, without
timestamps, so that who has the same weights writes the same text. The answer is a JSON list.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Hear = Callable[[Any], str]
THREADS = 1


def transformers(model: Path) -> Hear:
    import torch
    import transformers as library

    torch.set_num_threads(THREADS)
    untyped: Any = library
    processor = untyped.AutoProcessor.from_pretrained(model)
    network = untyped.WhisperForConditionalGeneration.from_pretrained(model, dtype=torch.float32)

    def hear(samples: Any) -> str:
        features = processor(samples, sampling_rate=16_000, return_tensors="pt").input_features
        tokens = network.generate(features, num_beams=1, do_sample=False)
        return str(processor.batch_decode(tokens, skip_special_tokens=True)[0])

    return hear


def faster_whisper(model: Path) -> Hear:
    from faster_whisper import WhisperModel

    loaded = WhisperModel(str(model), "cpu", compute_type="float32", cpu_threads=THREADS)

    def hear(samples: Any) -> str:
        segments, _ = loaded.transcribe(
            samples, language="en", beam_size=1, temperature=0, without_timestamps=True
        )
        return "".join(segment.text for segment in segments)

    return hear


def openai_whisper(model: Path) -> Hear:
    import torch
    import whisper

    torch.set_num_threads(THREADS)
    loaded = whisper.load_model(str(model), device="cpu")
    options = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=False)

    def hear(samples: Any) -> str:
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(samples), loaded.dims.n_mels)
        return str(whisper.decode(loaded, mel, options).text)

    return hear


def whisper_cpp(model: Path) -> Hear:
    from pywhispercpp.model import Model

    loaded = Model(
        str(model),
        params_sampling_strategy=0,
        redirect_whispercpp_logs_to=None,
        n_threads=THREADS,
        language="en",
        no_timestamps=True,
        temperature=0.0,
        temperature_inc=0.0,
        greedy={"best_of": 1},
        suppress_nst=True,
        print_progress=False,
    )
    return lambda samples: " ".join(one.text.strip() for one in loaded.transcribe(samples))


def openvino_genai(model: Path) -> Hear:
    import openvino_genai

    pipeline = openvino_genai.WhisperPipeline(
        str(model), "CPU", INFERENCE_NUM_THREADS=THREADS, INFERENCE_PRECISION_HINT="f32"
    )
    return lambda samples: str(pipeline.generate(samples).texts[0])


def onnxruntime(model: Path) -> Hear:
    """With the features and the tokenizer of Transformers, and a loop of our own."""
    import onnxruntime as runtime
    import tokenizers

    from stenopool.audio.features import log_mel

    said = json.loads((model / "generation_config.json").read_bytes())
    shape = json.loads((model / "config.json").read_bytes())
    words = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = THREADS
    suffix = os.environ.get("STENO_ONNX_SUFFIX", "")
    encoder, decoder = (
        runtime.InferenceSession(model / "onnx" / f"{name}{suffix}.onnx", options)
        for name in ("encoder_model", "decoder_model_merged")
    )
    outputs = [one.name for one in decoder.get_outputs()]
    empty = np.zeros((1, shape["decoder_attention_heads"], 0, 64), np.float32)

    def hear(samples: Any) -> str:
        features = log_mel(samples, shape["num_mel_bins"])[None]
        heard = encoder.run(None, {"input_features": features})[0]
        past = {one.name: empty for one in decoder.get_inputs() if "past" in one.name}
        written: list[int] = []
        fed = [said["decoder_start_token_id"], said["no_timestamps_token_id"]]
        while len(written) < 200:
            feeds = {"input_ids": np.array([fed]), "encoder_hidden_states": heard, **past}
            feeds["use_cache_branch"] = np.array([bool(written)])
            found = dict(zip(outputs, decoder.run(None, feeds), strict=True))
            for name in past:
                if not written or "encoder" not in name:
                    past[name] = found[name.replace("past_key_values", "present")]
            logits = found["logits"][0, -1]
            logits[said["suppress_tokens"]] = -np.inf
            if not written:
                logits[said["begin_suppress_tokens"]] = -np.inf
            fed = [int(logits.argmax())]
            if fed == [said["eos_token_id"]]:
                break
            written += fed
        return str(words.decode(written))

    return hear


PEERS: dict[str, Callable[[Path], Hear]] = {
    "transformers": transformers,
    "faster_whisper": faster_whisper,
    "openvino_genai": openvino_genai,
    "onnxruntime": onnxruntime,
    "pywhispercpp": whisper_cpp,
    "whisper": openai_whisper,
}

if __name__ == "__main__":
    recogniser = PEERS[sys.argv[1]](Path(sys.argv[2]))
    texts = [recogniser(np.fromfile(sound, np.float32)) for sound in sys.argv[3:]]
    sys.stdout.write("\n" + json.dumps([" ".join(text.split()) for text in texts]) + "\n")
