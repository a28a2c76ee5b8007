"""A wav2vec 2.0 model with a CTC head in Transformers' layout (Baevski et al. 2020).

What `Wav2Vec2ForCTC.save_pretrained` and `Wav2Vec2Processor.save_pretrained` write: `config.json`,
`model.safetensors`, `vocab.json`, `tokenizer_config.json`, `preprocessor_config.json` (or
`processor_config.json`). Nothing in such a folder is trusted: sizes are bounded and every tensor
must have the shape that the configuration says before a graph is built of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stenopool.errors import ModelDamaged
from stenopool.models.files import CONFIG, damaged, read_json, regular
from stenopool.models.safetensors import read_safetensors
from stenopool.models.wav2vec2_config import Wav2Vec2Shape, is_normalised, shape_of
from stenopool.models.weights import Tensor, refuse_overflow

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Wav2Vec2Weights:
    """A model in memory.

    Attributes:
        tensors: by their names in Transformers, each of the shape that `shape` says.
        normalised: whether samples are brought to mean 0 and variance 1 (`do_normalize`).
    """

    shape: Wav2Vec2Shape
    tensors: Mapping[str, Tensor]
    normalised: bool


def read_wav2vec2(folder: Path) -> Wav2Vec2Weights:
    """The model in a folder.

    Raises:
        ModelDamaged: a file is missing, damaged, or says what cannot be.
    """
    shape = shape_of(read_json(folder / CONFIG))
    if not (folder / WEIGHTS).is_file() and (folder / "pytorch_model.bin").exists():
        raise ModelDamaged(
            f"`{folder.name}` has its weights in `pytorch_model.bin`, which could run any code",
            do="Save it with `model.save_pretrained(folder, safe_serialization=True)`",
        )
    tensors = read_safetensors(regular(folder / WEIGHTS))
    wanted = dict(expected(shape))
    found = {}
    for name, size in wanted.items():
        tensor = _named(tensors, name)
        if tensor is None:
            raise damaged(f"`{WEIGHTS}` lacks the tensor `{name}`")
        if tensor.shape != size or tensor.dtype.kind != "f":
            raise damaged(
                f"`{name}` in `{WEIGHTS}` is {tensor.dtype} of {list(tensor.shape)}, not "
                f"floating point of {list(size)}, as `{CONFIG}` says"
            )
        found[name] = refuse_overflow(name, tensor)
    return Wav2Vec2Weights(shape, found, is_normalised(folder))


def expected(shape: Wav2Vec2Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor."""
    before = 1
    for layer, (after, kernel) in enumerate(zip(shape.channels, shape.kernels, strict=True)):
        name = f"wav2vec2.feature_extractor.conv_layers.{layer}"
        yield f"{name}.conv.weight", (after, before, kernel)
        if shape.conv_bias:
            yield f"{name}.conv.bias", (after,)
        if shape.layer_norm or layer == 0:
            yield from _both(f"{name}.layer_norm", (after,))
        before = after
    yield from _both("wav2vec2.feature_projection.layer_norm", (before,))
    yield from _both("wav2vec2.feature_projection.projection", (shape.width, before))
    positions = "wav2vec2.encoder.pos_conv_embed.conv"
    yield f"{positions}.bias", (shape.width,)
    yield f"{positions}.weight_g", (1, 1, shape.position_kernel)
    yield (
        f"{positions}.weight_v",
        (shape.width, shape.width // shape.position_groups, shape.position_kernel),
    )
    yield from _both("wav2vec2.encoder.layer_norm", (shape.width,))
    for layer in range(shape.layers):
        name = f"wav2vec2.encoder.layers.{layer}"
        for kind in ("q", "k", "v", "out"):
            yield from _both(f"{name}.attention.{kind}_proj", (shape.width, shape.width))
        yield from _both(f"{name}.layer_norm", (shape.width,))
        yield from _both(f"{name}.feed_forward.intermediate_dense", (shape.inner, shape.width))
        yield from _both(f"{name}.feed_forward.output_dense", (shape.width, shape.inner))
        yield from _both(f"{name}.final_layer_norm", (shape.width,))
    yield from _both("lm_head", (shape.vocabulary, shape.width))


def _both(name: str, size: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", size
    yield f"{name}.bias", size[:1]


_OTHER_NAMES = {  # PyTorch has renamed what weight normalisation keeps
    "conv.weight_g": "conv.parametrizations.weight.original0",
    "conv.weight_v": "conv.parametrizations.weight.original1",
}


def _named(tensors: Mapping[str, Tensor], name: str) -> Tensor | None:
    found = tensors.get(name)
    for ours, theirs in _OTHER_NAMES.items():
        if found is None and name.endswith(ours):
            found = tensors.get(name.removesuffix(ours) + theirs)
    return found
