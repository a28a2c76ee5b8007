"""Whisper's audio encoder by `kernels/encoder.c`, for CPUs with AMX.

It gives what the graph of `encoder.py` gives, in bfloat16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_int32, c_void_p
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

_DEPTH = 32  # what products sum over is padded to a multiple of so many

Floats = NDArray[np.float32]


class _Layer(Structure):
    _fields_ = (
        *((name, Norm) for name in ("attention_norm", "last_norm")),
        *((name, Linear) for name in ("qkv", "out", "up", "down")),
    )


class _Model(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("layers", "width", "inner", "bins", "heard_layers")),
        *((name, Linear) for name in ("first", "second")),
        ("places", c_void_p),
        ("layer", POINTER(_Layer)),
        ("last_norm", Norm),
        ("heard", Linear),
    )


class TiledEncoders:
    """The weights of an encoder, as `kernels/encoder.c` reads them.

    Args:
        team: packs them.

    Raises:
        ModelDamaged: its sizes are not those of a Whisper model.
    """

    def __init__(self, weights: WhisperWeights, team: Team) -> None:
        self.shape = shape = weights.shape
        self._given = Given(weights.tensors)
        inner = checked_inner(weights)
        places = self._given.floats("model.encoder.embed_positions.weight")
        layers = [self._layer(number, team) for number in range(shape.encoder_layers)]
        crossed = [
            f"model.decoder.layers.{layer}.encoder_attn.{kind}_proj"
            for layer in range(shape.decoder_layers)
            for kind in "kv"
        ]
        self.structure = _Model(
            layers=shape.encoder_layers,
            width=shape.width,
            inner=inner,
            bins=shape.mel_bins,
            heard_layers=shape.decoder_layers,
            first=self._convolution("model.encoder.conv1", team),
            second=self._convolution("model.encoder.conv2", team),
            places=self._given.at(places),
            layer=(_Layer * len(layers))(*layers),
            last_norm=self._given.norm("model.encoder.layer_norm"),
            heard=self._linear(crossed, team),
        )

    def one(self, team: Team) -> TiledEncoder:
        """That a team runs."""
        return TiledEncoder(self, team)

    def prepare(self, frames: int) -> None:
        """Windows of any number of frames up to 3000 need no more."""

    def _layer(self, number: int, team: Team) -> _Layer:
        name = f"model.encoder.layers.{number}"
        return _Layer(
            self._given.norm(f"{name}.self_attn_layer_norm"),
            self._given.norm(f"{name}.final_layer_norm"),
            self._linear([f"{name}.self_attn.{kind}_proj" for kind in "qkv"], team),
            *(
                self._linear([f"{name}.{one}"], team)
                for one in ("self_attn.out_proj", "fc1", "fc2")
            ),
        )

    def _linear(self, names: Sequence[str], team: Team) -> Linear:
        return self._packed(*self._given.linear(names), team)

    def _convolution(self, name: str, team: Team) -> Linear:
        """As a product with what is heard at three times."""
        weights, bias = self._given.linear([name])
        flat = weights.transpose(0, 2, 1).reshape(len(weights), -1)
        return self._packed(np.pad(flat, ((0, 0), (0, -flat.shape[1] % _DEPTH))), bias, team)

    def _packed(self, weights: Floats, bias: Floats, team: Team) -> Linear:
        outputs, inputs = weights.shape
        packed = aligned(2 * outputs * inputs)
        library().encoder_pack(team.handle, address(weights), outputs, inputs, address(packed))
        return Linear(self._given.at(packed), self._given.at(bias))


class TiledEncoder:
    """Runs the encoder. One thread at a time may use it."""

    def __init__(self, packed: TiledEncoders, team: Team) -> None:
        self._packed, self._team = packed, team
        self._audio: list[NDArray[np.uint16]] = []  # kept: fresh memory takes longer

    def run(self, window: Features) -> list[NDArray[Any]]:
        """The bits of bfloat16 of each of the decoder's layers' keys (heads, positions, 64) and
        values (heads, 64, positions); they are valid until the next run.

        Args:
            window: (mel bins, frames), two frames for each of at most 1500 positions.

        Raises:
            ValueError: it is of another shape.
        """
        shape, positions = self._packed.shape, window.shape[1] // 2
        if window.shape != (shape.mel_bins, 2 * positions) or positions > AUDIO_POSITIONS:
            raise ValueError(f"a window of {window.shape}")
        sizes = ((positions, HEAD_WIDTH), (HEAD_WIDTH, positions))
        if not self._audio or self._audio[0].shape[1] != positions:
            self._audio = [
                np.empty((shape.heads, *size), np.uint16)
                for _ in range(shape.decoder_layers)
                for size in sizes
            ]
        features = np.ascontiguousarray(window, np.float32)
        model = ctypes.byref(self._packed.structure)
        out = addresses(self._audio)
        if not library().encoder_run(self._team.handle, model, address(features), positions, out):
            raise EngineFailed("No memory is left", do="Use a smaller model, or free memory")
        return list(self._audio)
