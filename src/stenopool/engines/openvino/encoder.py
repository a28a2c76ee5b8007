"""Whisper's audio encoder (Radford et al. 2022, section 2.2). `kernels/encoder.c` does the work.

What leaves it is not the encoder's last layer but what the decoder makes of it: the keys and values
of every cross-attention, so that they are computed once a window.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_bool, c_int32, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stenopool.audio.features import Features
from stenopool.engines.openvino.library import (
    Given,
    Linear,
    Norm,
    Team,
    address,
    addresses,
    aligned,
    checked_inner,
    library,
)
from stenopool.errors import EngineFailed
from stenopool.models.weights import AUDIO_POSITIONS, HEAD_WIDTH, WhisperWeights

FLOATS, INT8, TILES = range(3)  # how weights are packed; as in kernels/encoder.h

Floats = NDArray[np.float32]


class _Layer(Structure):
    _fields_ = (
        *((name, Norm) for name in ("attention_norm", "last_norm")),
        *((name, Linear) for name in ("qkv", "out", "up", "down")),
    )


class _Model(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("layers", "width", "inner", "bins")),
        *((name, c_int32) for name in ("heard_layers", "kind")),
        ("exact", c_bool),
        *((name, Linear) for name in ("first", "second")),
        ("places", c_void_p),
        ("layer", POINTER(_Layer)),
        ("last_norm", Norm),
        ("heard", POINTER(Linear)),
    )


class PackedEncoder:
    """The weights of an encoder, as `kernels/encoder.c` reads them.

    Args:
        exact: in float32; else in what the CPU multiplies fastest.
        team: packs them.

    Attributes:
        kind: `FLOATS`, `INT8`, or `TILES` of bfloat16.

    Raises:
        ModelDamaged: its sizes are not those of a Whisper model.
    """

    def __init__(self, weights: WhisperWeights, *, exact: bool, team: Team) -> None:
        self.shape = shape = weights.shape
        self.kind = FLOATS if exact else int(library().encoder_kind())
        self._team = team
        self._given = Given(weights.tensors)
        inner = checked_inner(weights)
        places = self._given.floats("model.encoder.embed_positions.weight")
        layers = [self._layer(number) for number in range(shape.encoder_layers)]
        crossed = [
            self._linear([f"{name}.encoder_attn.{kind}_proj" for kind in "kv"])
            for name in (f"model.decoder.layers.{layer}" for layer in range(shape.decoder_layers))
        ]
        self.structure = _Model(
            layers=shape.encoder_layers,
            width=shape.width,
            inner=inner,
            bins=shape.mel_bins,
            heard_layers=shape.decoder_layers,
            kind=self.kind,
            exact=exact,
            first=self._convolution("model.encoder.conv1"),
            second=self._convolution("model.encoder.conv2"),
            places=self._given.at(places),
            layer=(_Layer * len(layers))(*layers),
            last_norm=self._given.norm("model.encoder.layer_norm"),
            heard=(Linear * len(crossed))(*crossed),
        )

    def _layer(self, number: int) -> _Layer:
        name = f"model.encoder.layers.{number}"
        return _Layer(
            self._given.norm(f"{name}.self_attn_layer_norm"),
            self._given.norm(f"{name}.final_layer_norm"),
            self._linear([f"{name}.self_attn.{kind}_proj" for kind in "qkv"]),
            *(self._linear([f"{name}.{one}"]) for one in ("self_attn.out_proj", "fc1", "fc2")),
        )

    def _linear(self, names: Sequence[str]) -> Linear:
        return self._packed(*self._given.linear(names))

    def _convolution(self, name: str) -> Linear:
        """As a product with what is heard at three times."""
        weights, bias = self._given.linear([name])
        flat = weights.transpose(0, 2, 1).reshape(len(weights), -1)
        return self._packed(np.pad(flat, ((0, 0), (0, -flat.shape[1] % HEAD_WIDTH))), bias)

    def _packed(self, weights: Floats, bias: Floats) -> Linear:
        outputs, inputs = weights.shape
        packed = aligned(library().encoder_matrix_bytes(self.kind, outputs, inputs))
        library().encoder_pack(
            self._team.handle, self.kind, address(weights), outputs, inputs, address(packed)
        )
        return Linear(self._given.at(packed), self._given.at(bias))


class Encoder:
    """Encodes windows. One thread at a time may use it.

    Args:
        packed: may be shared with others.
    """

    def __init__(self, packed: PackedEncoder, team: Team) -> None:
        self._packed, self._team = packed, team
        self._audio: list[NDArray[Any]] = []  # kept: fresh memory takes longer

    def run(self, window: Features) -> list[NDArray[Any]]:
        """Each of the decoder's layers' keys (heads, positions, 64) and values (heads, 64,
        positions), in float32 or the bits of bfloat16; they are valid until the next run.

        Args:
            window: (mel bins, frames), two frames for each of at most 1500 positions.

        Raises:
            ValueError: it is of another shape.
            EngineFailed: there is no memory for it.
        """
        shape, positions = self._packed.shape, window.shape[1] // 2
        if window.shape != (shape.mel_bins, 2 * positions) or positions > AUDIO_POSITIONS:
            raise ValueError(f"a window of {window.shape}")
        sizes = ((positions, HEAD_WIDTH), (HEAD_WIDTH, positions))
        if not self._audio or self._audio[0].shape[1] != positions:
            kind = np.float32 if self._packed.kind == FLOATS else np.uint16
            self._audio = [
                np.empty((shape.heads, *size), kind)
                for _ in range(shape.decoder_layers)
                for size in sizes
            ]
        features = np.ascontiguousarray(window, np.float32)
        model = ctypes.byref(self._packed.structure)
        out = addresses(self._audio)
        if not library().encoder_run(self._team.handle, model, address(features), positions, out):
            raise EngineFailed("No memory is left", do="Use a smaller model, or free memory")
        return list(self._audio)
