"""How sound is prepared for Whisper, as Transformers' feature extractor says it."""

from __future__ import annotations

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import FFT_SAMPLES, HOP_SAMPLES, WINDOW_FRAMES, WINDOW_SAMPLES
from stenopool.models.weights import WhisperShape


def preprocessor(shape: WhisperShape) -> dict[str, object]:
    """The content of `preprocessor_config.json`."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": shape.mel_bins,
        "sampling_rate": SAMPLE_RATE,
        "n_fft": FFT_SAMPLES,
        "hop_length": HOP_SAMPLES,
        "chunk_length": WINDOW_SAMPLES // SAMPLE_RATE,
        "n_samples": WINDOW_SAMPLES,
        "nb_max_frames": WINDOW_FRAMES,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
