"""The normalisation over time of the first convolution, without looking at what it gives.

Models with `feat_extract_norm` of `group` bring each channel of it to mean 0 and variance 1 over
all frames. Mean and variance of what a linear filter gives follow from those of what it is given,
which are far fewer numbers than the 512 channels.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from stenopool.audio import Samples
from stenopool.engines.ctc.graph import EPSILON
from stenopool.models.wav2vec2 import Wav2Vec2Weights

_LAYER = "wav2vec2.feature_extractor.conv_layers.0"


class Levels:
    """What brings the channels of the first convolution to one level."""

    def __init__(self, weights: Wav2Vec2Weights) -> None:
        def tensor(name: str) -> NDArray[np.float64]:
            return np.asarray(weights.tensors[f"{_LAYER}.{name}"], dtype=np.float64)

        self._kernel = tensor("conv.weight")[:, 0]  # (channels, samples)
        self._stride = weights.shape.strides[0]
        self._weight, self._bias = tensor("layer_norm.weight"), tensor("layer_norm.bias")

    def of(self, samples: Samples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """By what each channel is multiplied, and what is added then: (channels,) each.

        Args:
            samples: of one stretch, at least as many as the convolution looks at.
        """
        kernel = self._kernel
        frames = sliding_window_view(samples, kernel.shape[1])[:: self._stride].astype(np.float64)
        middle = frames.mean(axis=0)
        frames -= middle
        spread = frames.T @ frames / len(frames)
        variance = ((kernel @ spread) * kernel).sum(axis=1)
        scale = self._weight / np.sqrt(variance + EPSILON)
        return scale, self._bias - (kernel @ middle) * scale
