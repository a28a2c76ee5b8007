"""Whisper's text decoder: tokens in, what follows them out. `kernels/decoder.c` does the work.

A step takes rows of any number of windows; a row is a token of a hypothesis. Each row adds a node,
its keys and values, to the past of its window, and attends to the nodes of its own path: hypotheses
that part share what came before.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_bool, c_int32, c_void_p, pointer
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stenopool.engines.base import overflowed
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
    odd_sizes,
)
from stenopool.engines.rules import Next
from stenopool.errors import EngineFailed
from stenopool.models.weights import AUDIO_POSITIONS, HEAD_WIDTH, WhisperWeights, from_bfloat16

CANDIDATES = 16  # of the text tokens of a row; as in kernels/decoder.c
_BLOCK = 32  # a bias is padded to a multiple of so many outputs
_FIRST_NODES = 128
_TABLE = "model.decoder.embed_tokens.weight"

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class _Layer(Structure):
    _fields_ = (
        *((name, Norm) for name in ("text_norm", "audio_norm", "last_norm")),
        *((name, Linear) for name in ("qkv", "text_out", "audio_query", "audio_out")),
        *((name, Linear) for name in ("up", "down")),
    )


class _Model(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("layers", "width", "heads", "inner")),
        *((name, c_int32) for name in ("vocabulary", "text_tokens")),
        ("int8", c_bool),
        ("layer", POINTER(_Layer)),
        ("last_norm", Norm),
        ("head", Linear),
    )


class _Window(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("heard", "past")),
        *((name, c_int32) for name in ("nodes", "positions", "first_row", "rows")),
    )


class _Row(Structure):
    _fields_ = (("path", c_void_p), ("length", c_int32))


class _Notes(Structure):
    _fields_ = (("number", c_void_p), ("positions", c_int32), ("out", c_void_p))


class _Call(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("rows", "windows", "asked")),
        ("x", c_void_p),
        ("row", POINTER(_Row)),
        ("window", POINTER(_Window)),
        ("asked_row", c_void_p),
        ("notes", POINTER(_Notes)),
        *((name, c_void_p) for name in ("ids", "logits", "mass", "specials")),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """A window's keys and values of the cross-attention, packed.

    Attributes:
        positions: of the encoder's output.
    """

    block: Bytes
    positions: int


class Past:
    """What the hypotheses of a window, its lanes, have said so far."""

    def __init__(self, planes: int, node_bytes: int) -> None:
        self.nodes: Bytes = np.empty((planes, _FIRST_NODES, node_bytes), np.uint8)
        self.paths = np.zeros((1, _FIRST_NODES), np.int32)  # a lane's: numbers of nodes
        self.length = 0  # of every path
        self._used = 0  # nodes

    def grow(self, parents: Sequence[int], count: int) -> None:
        """Each lane goes on from one of before, by so many new nodes."""
        lanes, needed = len(parents), self._used + len(parents) * count
        planes, room, node_bytes = self.nodes.shape
        while room < needed:
            room *= 2
        if room > self.nodes.shape[1]:
            nodes, self.nodes = self.nodes, np.empty((planes, room, node_bytes), np.uint8)
            self.nodes[:, : self._used] = nodes[:, : self._used]
            self.paths = np.pad(self.paths, ((0, 0), (0, room - self.paths.shape[1])))
        self.paths = self.paths[list(parents)]
        new = np.arange(self._used, needed, dtype=np.int32).reshape(lanes, count)
        self.paths[:, self.length : self.length + count] = new
        self.length += count
        self._used = needed


@dataclass(slots=True)
class Rows:
    """New tokens of a window: of one lane, or one for each lane.

    Attributes:
        past: has grown by them.
        asked: of which it is told what follows; ascending.
    """

    heard: Heard
    past: Past
    tokens: Sequence[int]
    asked: Sequence[int]

    @property
    def new(self) -> int:
        """Tokens of a lane."""
        return len(self.tokens) // len(self.past.paths)


class PackedDecoder:
    """The weights of a decoder, as `kernels/decoder.c` reads them.

    Args:
        int8: quantise them, and what meets them; the kernels have it.
        end: the end-of-text token; text tokens are those before it.
        suppressed: text tokens that are never written.
        team: packs them.

    Raises:
        ModelDamaged: its sizes are not those of a Whisper model.
    """

    def __init__(
        self,
        weights: WhisperWeights,
        *,
        int8: bool,
        end: int,
        suppressed: Sequence[int],
        team: Team,
    ) -> None:
        self.int8 = int8
        self.shape = shape = weights.shape
        inner = checked_inner(weights)
        if not CANDIDATES <= end < shape.vocabulary:
            raise odd_sizes()
        self.end = end
        self._given = Given(weights.tensors)
        self.table = np.ascontiguousarray(weights.tensors[_TABLE])
        self.places = self._given.floats("model.decoder.embed_positions.weight")
        layers = [self._layer(number, team) for number in range(shape.decoder_layers)]
        never = np.zeros(shape.vocabulary, np.float32)
        never[[token for token in suppressed if token < end]] = -np.inf
        self.structure = _Model(
            layers=shape.decoder_layers,
            width=shape.width,
            heads=shape.heads,
            inner=inner,
            vocabulary=shape.vocabulary,
            text_tokens=end,
            int8=int8,
            layer=(_Layer * len(layers))(*layers),
            last_norm=self._given.norm("model.decoder.layer_norm"),
            head=self._packed(self.table, never, team),
        )

    @property
    def window_bytes(self) -> int:
        """Of a packed window."""
        return int(library().decoder_window_bytes(ctypes.byref(self.structure), AUDIO_POSITIONS))

    def _layer(self, number: int, team: Team) -> _Layer:
        name = f"model.decoder.layers.{number}"
        return _Layer(
            self._given.norm(f"{name}.self_attn_layer_norm"),
            self._given.norm(f"{name}.encoder_attn_layer_norm"),
            self._given.norm(f"{name}.final_layer_norm"),
            self._linear([f"{name}.self_attn.{kind}_proj" for kind in "qkv"], team),
            *(
                self._linear([f"{name}.{one}"], team)
                for one in (
                    "self_attn.out_proj",
                    "encoder_attn.q_proj",
                    "encoder_attn.out_proj",
                    "fc1",
                    "fc2",
                )
            ),
        )

    def _linear(self, names: Sequence[str], team: Team) -> Linear:
        return self._packed(*self._given.linear(names), team)

    def _packed(self, weight: NDArray[Any], bias: Floats, team: Team) -> Linear:
        weight = np.ascontiguousarray(weight, dtype=np.float32)
        outputs, inputs = weight.shape
        packed = aligned(library().decoder_matrix_bytes(outputs, inputs, self.int8))
        library().decoder_pack(
            team.handle, address(weight), outputs, inputs, self.int8, self._given.at(packed)
        )
        padded = np.pad(bias, (0, -outputs % _BLOCK))
        return Linear(address(packed), self._given.at(padded))


class Decoder:
    """Runs steps. One thread at a time may use it.

    Args:
        packed: may be shared with others.
    """

    def __init__(self, packed: PackedDecoder, team: Team) -> None:
        self._packed, self._team = packed, team

    def hear(self, audio: Sequence[NDArray[Any]]) -> Heard:
        """Pack a window.

        Args:
            audio: each layer's keys (heads, positions, 64) and values (heads, 64, positions);
                float32, or the bits of bfloat16 as uint16.

        Raises:
            EngineFailed: what the encoder computed is no number.
        """
        # A position that is none makes every number none that is computed of it: one will do.
        values = audio[1][0, 0]
        if not np.isfinite(from_bfloat16(values) if values.dtype == np.uint16 else values).all():
            raise overflowed()
        positions = audio[0].shape[-2]
        model = ctypes.byref(self._packed.structure)
        block = aligned(library().decoder_window_bytes(model, positions))
        half = audio[0].dtype == np.uint16
        pointers = addresses(audio)
        library().decoder_hear(self._team.handle, model, pointers, half, positions, address(block))
        return Heard(block, positions)

    def past(self) -> Past:
        """Of a window that begins."""
        shape, size = self._packed.shape, 2 if self._packed.int8 else 4
        return Past(2 * shape.decoder_layers * shape.heads, HEAD_WIDTH * size)

    def step(self, windows: Sequence[Rows]) -> Next:
        """What follows the asked rows of all windows, one after the other."""
        packed = self._packed
        first = np.cumsum([0, *(len(one.tokens) for one in windows)])
        asked = [
            start + row for start, one in zip(first, windows, strict=False) for row in one.asked
        ]
        x = self._run(windows, np.array(asked, np.int32), None, found := _Found(len(asked), packed))
        if packed.int8:  # score the best again in full precision
            rows = packed.table[found.ids].astype(np.float32)
            logits = np.matmul(rows, x[: len(asked), :, None])[..., 0]
        else:
            logits = found.logits
        highest = found.logits[:, :1]
        with np.errstate(all="ignore"):  # of numbers that are none; `Rules` refuses them
            sums = found.mass + np.exp(logits - highest).sum(axis=1)
            mass = np.log(sums) + highest[:, 0]
        return Next(found.ids, logits, mass, found.specials)

    def attention(
        self, heard: Heard, tokens: Sequence[int], positions: int, heads: Sequence[tuple[int, int]]
    ) -> Floats:
        """To which of the first positions each token attends, (heads, tokens, positions).

        Args:
            heads: (layer, head) of cross-attentions.
        """
        packed = self._packed
        numbers = np.full((packed.shape.decoder_layers, packed.shape.heads), -1, np.int32)
        for number, where in enumerate(heads):
            numbers[where] = number
        out = np.zeros((len(heads), len(tokens), positions), np.float32)
        past = self.past()
        past.grow([0], len(tokens))
        notes = _Notes(address(numbers), positions, address(out))
        rows = Rows(heard, past, tokens, ())
        self._run([rows], np.empty(0, np.int32), notes, _Found(0, packed))
        return out

    def _run(
        self,
        windows: Sequence[Rows],
        asked: NDArray[np.int32],
        notes: _Notes | None,
        found: _Found,
    ) -> Floats:
        """The last layer's output, normalised, of the asked rows first: (rows, width)."""
        packed = self._packed
        rows: list[tuple[int, int]] = []
        places: list[int] = []
        structures = []
        for one in windows:
            past, begun = one.past, one.past.length - one.new
            structures.append(
                _Window(
                    address(one.heard.block),
                    address(past.nodes),
                    past.nodes.shape[1],
                    one.heard.positions,
                    len(rows),
                    len(one.tokens),
                )
            )
            lane_bytes, first = past.paths.strides[0], address(past.paths)
            for lane in range(len(past.paths)):
                for place in range(begun, past.length):
                    rows.append((first + lane * lane_bytes, place + 1))
                    places.append(place)
        tokens = [token for one in windows for token in one.tokens]
        x = packed.table[tokens].astype(np.float32) + packed.places[places]
        call = _Call(
            rows=len(rows),
            windows=len(windows),
            asked=len(asked),
            x=address(x),
            row=(_Row * len(rows))(*(_Row(*one) for one in rows)),
            window=(_Window * len(windows))(*structures),
            asked_row=address(asked),
            notes=pointer(notes) if notes else None,
            **{
                name: address(getattr(found, name))
                for name in ("ids", "logits", "mass", "specials")
            },
        )
        model = ctypes.byref(packed.structure)
        if not library().decoder_step(self._team.handle, model, ctypes.byref(call)):
            raise EngineFailed("No memory is left", do="Use a smaller model, or free memory")
        return x


class _Found:
    """What a call tells of the asked rows."""

    def __init__(self, asked: int, packed: PackedDecoder) -> None:
        self.ids = np.empty((asked, CANDIDATES), np.int32)
        self.logits = np.empty((asked, CANDIDATES), np.float32)
        self.mass = np.empty(asked, np.float32)
        self.specials = np.empty((asked, packed.shape.vocabulary - packed.end), np.float32)
