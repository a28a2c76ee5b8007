"""The JSON files of a wav2vec 2.0 model: sizes, within bounds, and how sound is prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from stenopool.audio import SAMPLE_RATE
from stenopool.models.files import CONFIG, WAV2VEC2, damaged, read_json

ACTIVATIONS = ("gelu", "relu")
_MOST = {
    "hidden_size": 8192,
    "num_hidden_layers": 200,
    "num_attention_heads": 256,
    "intermediate_size": 65_536,
    "num_conv_pos_embeddings": 4096,
    "num_conv_pos_embedding_groups": 8192,
    "vocab_size": 200_000,
}
_MOST_CONVOLUTIONS = 32
_MOST_CHANNELS = 8192
_MOST_KERNEL = 1000
_MOST_STRIDE = SAMPLE_RATE  # of all convolutions together: a frame a second


@dataclass(frozen=True, slots=True)
class Wav2Vec2Shape:
    """The sizes of a model, as its `config.json` names them.

    Attributes:
        channels, kernels, strides: of each convolution of the feature encoder.
        layer_norm: each convolution is followed by a layer normalisation (`feat_extract_norm` is
            `layer`); otherwise the first one alone by a normalisation over time (`group`).
        stable: each layer normalises before it attends (`do_stable_layer_norm`).
        blank: id of the CTC blank, the padding token.
    """

    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    layer_norm: bool
    conv_bias: bool
    stable: bool
    width: int
    layers: int
    heads: int
    inner: int
    position_kernel: int
    position_groups: int
    vocabulary: int
    blank: int
    epsilon: float
    activation: str
    conv_activation: str

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return prod(self.strides)

    @property
    def field(self) -> int:
        """Samples that a frame is made of; fewer give none."""
        return self.samples_for(1)

    def samples_for(self, frames: int) -> int:
        """The fewest samples that give so many frames."""
        needed = frames
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            needed = (needed - 1) * stride + kernel
        return needed

    def frames_of(self, samples: int) -> int:
        """How many frames so many samples give."""
        length = samples
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            length = max(0, (length - kernel) // stride + 1)
        return length


def shape_of(config: Mapping[str, Any]) -> Wav2Vec2Shape:
    """The sizes in a `config.json`.

    Raises:
        ModelDamaged: it is of another model, or says what cannot be.
    """
    if config.get("model_type") != WAV2VEC2:
        raise damaged(f"`{CONFIG}` is of a `{config.get('model_type')}` model, not `{WAV2VEC2}`")
    for name in ("add_adapter", "adapter_attn_dim"):
        if config.get(name):
            raise damaged(f"`{CONFIG}` has `{name}`: models with adapters are not supported")
    lists = {name: _numbers(config, name) for name in ("conv_dim", "conv_kernel", "conv_stride")}
    if len({len(one) for one in lists.values()}) > 1:
        raise damaged(f"`conv_dim`, `conv_kernel` and `conv_stride` of `{CONFIG}` differ in length")
    sizes = {name: _number(config.get(name), name, most) for name, most in _MOST.items()}
    norm = config.get("feat_extract_norm")
    if norm not in ("group", "layer"):
        raise damaged(f"`feat_extract_norm` of `{CONFIG}` is `{norm}`, not `group` or `layer`")
    epsilon = config.get("layer_norm_eps", 1e-5)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise damaged(f"`layer_norm_eps` of `{CONFIG}` is `{epsilon}`")
    shape = Wav2Vec2Shape(
        channels=lists["conv_dim"],
        kernels=lists["conv_kernel"],
        strides=lists["conv_stride"],
        layer_norm=norm == "layer",
        conv_bias=bool(config.get("conv_bias", False)),
        stable=bool(config.get("do_stable_layer_norm", False)),
        width=sizes["hidden_size"],
        layers=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        inner=sizes["intermediate_size"],
        position_kernel=sizes["num_conv_pos_embeddings"],
        position_groups=sizes["num_conv_pos_embedding_groups"],
        vocabulary=sizes["vocab_size"],
        blank=_number(config.get("pad_token_id", 0), "pad_token_id", 200_000, least=0),
        epsilon=epsilon,
        activation=_activation(config, "hidden_act"),
        conv_activation=_activation(config, "feat_extract_activation"),
    )
    _check(shape)
    return shape


def _check(shape: Wav2Vec2Shape) -> None:
    if shape.width % shape.heads or shape.width % shape.position_groups:
        raise damaged(f"the sizes in `{CONFIG}` cannot be parted into heads or groups")
    if shape.blank >= shape.vocabulary:
        raise damaged(f"`pad_token_id` of `{CONFIG}` is not in its vocabulary")
    if shape.stride > _MOST_STRIDE:
        raise damaged(f"`conv_stride` of `{CONFIG}` makes frames of more than a second")


def _activation(config: Mapping[str, Any], name: str) -> str:
    found = config.get(name, "gelu")
    if found not in ACTIVATIONS:
        raise damaged(f"`{name}` of `{CONFIG}` is `{found}`, not one of {', '.join(ACTIVATIONS)}")
    return str(found)


def _numbers(config: Mapping[str, Any], name: str) -> tuple[int, ...]:
    found = config.get(name)
    if not isinstance(found, list) or not 0 < len(found) <= _MOST_CONVOLUTIONS:
        raise damaged(f"`{name}` of `{CONFIG}` is not a list of numbers")
    most = _MOST_CHANNELS if name == "conv_dim" else _MOST_KERNEL
    return tuple(_number(one, name, most) for one in found)


def _number(value: object, name: str, most: int, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise damaged(f"`{name}` of `{CONFIG}` is {value!r}, not {least} to {most}")
    return value


def is_normalised(folder: Path) -> bool:
    """Whether the feature extractor normalises; Transformers' default is that it does.

    Raises:
        ModelDamaged: it is missing, or wants another rate.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            said = read_json(folder / name)
            said = said.get("feature_extractor", said)
            if not isinstance(said, dict):
                raise damaged(f"`{name}` describes no feature extractor")
            if said.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
                raise damaged(f"`{name}` wants {said['sampling_rate']} samples a second, not 16000")
            return bool(said.get("do_normalize", True))
    raise damaged(f"`{folder}` lacks `preprocessor_config.json`")
