"""Reads the pickle of a PyTorch checkpoint without unpickling it.

A pickle is a program. `pickle` would run it; here its instructions are read one after the other,
and the few that put dictionaries of tensors together are followed. Names of code are kept as names:
nothing is imported, called or made an instance of, and a name that no tensor needs is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stenopool.models.formats.records import refused

MOST_BYTES = 20_000_000
_MOST_INSTRUCTIONS = 2_000_000
_MOST_DIMENSIONS = 8

_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_ORDERED = "collections OrderedDict"
STORAGES = {
    "torch HalfStorage": "float16",
    "torch FloatStorage": "float32",
    "torch DoubleStorage": "float64",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
}


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a function or class; it is never more than that."""

    text: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers in a file of the archive."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor: a view of a storage. Sizes are as the pickle says, and not yet checked."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Mark:
    """Where a list of arguments begins."""


_MARK = _Mark()


def described(content: bytes, name: str) -> Any:  # noqa: ANN401  whatever the pickle describes
    """What a pickle describes: dictionaries, lists, numbers, text, and `Described` tensors.

    Args:
        name: of the file, for messages.

    Raises:
        ModelDamaged: it is no pickle, or holds anything else.
    """
    if len(content) > MOST_BYTES:
        raise refused(name, "its list of tensors is too long to be a model's")
    machine = _Machine(name)
    try:
        for place, (instruction, argument, _) in enumerate(pickletools.genops(content)):
            if place > _MOST_INSTRUCTIONS:
                raise refused(name, "its list of tensors is too long to be a model's")
            if instruction.name == "STOP":
                return machine.pop()
            machine.follow(instruction.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise refused(name, "its list of tensors is damaged") from error
    raise refused(name, "its list of tensors is cut off")


class _Machine:
    """The stack and the memory that a pickle's instructions work on."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}

    def follow(self, instruction: str, argument: Any) -> None:  # noqa: ANN401
        if instruction in _CONSTANTS:
            self._stack.append(_CONSTANTS[instruction]())
        elif instruction in _VALUES:
            self._stack.append(argument)
        elif instruction in _STORED:
            self._memory[len(self._memory) if argument is None else argument] = self._stack[-1]
        elif instruction in _RECALLED:
            self._stack.append(self._memory[argument])
        elif instruction in _DONE:
            _DONE[instruction](self, argument)
        elif instruction not in ("PROTO", "FRAME"):
            raise refused(self._name, f"it holds the instruction {instruction}")

    def pop(self) -> Any:  # noqa: ANN401
        found = self._stack.pop()
        if found is _MARK:
            raise ValueError
        return found

    def _arguments(self) -> list[Any]:
        """All above the last mark, which goes too."""
        found = []
        while (one := self._stack.pop()) is not _MARK:
            found.append(one)
        return found[::-1]

    def _named(self, argument: str) -> None:
        if argument not in (_TENSOR, _PARAMETER, _ORDERED, *STORAGES):
            raise refused(self._name, f"it names the code `{_shown(argument)}`, which is never run")
        self._stack.append(Name(argument))

    def _named_on_stack(self) -> None:
        inner, outer = self.pop(), self.pop()
        if not isinstance(inner, str) or not isinstance(outer, str):
            raise TypeError
        self._named(f"{outer} {inner}")

    def _called(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise refused(self._name, "it calls what is no function")
        if function.text == _ORDERED and not arguments:
            self._stack.append({})
        elif function.text == _TENSOR:
            self._stack.append(_tensor(*arguments[:4]))
        elif function.text == _PARAMETER and isinstance(arguments[0], Described):
            self._stack.append(arguments[0])
        else:
            raise refused(self._name, f"it calls `{_shown(function.text)}`")

    def _storage(self) -> None:
        kind, storage, key, _, count = self.pop()
        if kind != "storage" or not isinstance(storage, Name) or storage.text not in STORAGES:
            raise refused(self._name, "it has numbers of a kind that is not known")
        if not isinstance(key, str) or not _is_size(count):
            raise TypeError
        self._stack.append(Storage(STORAGES[storage.text], key, count))

    def _built(self) -> None:
        """Attributes of a dictionary, such as versions of modules; they say nothing of weights."""
        self.pop()
        if not isinstance(self._stack[-1], dict):
            raise refused(self._name, "it changes an object")

    def _tuple(self, count: int | None) -> None:
        found = self._arguments() if count is None else [self.pop() for _ in range(count)][::-1]
        self._stack.append(tuple(found))

    def _extended(self, found: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TypeError
        self._stack[-1].extend(found)

    def _filled(self, found: list[Any]) -> None:
        if not isinstance(self._stack[-1], dict):
            raise TypeError
        for key, value in zip(found[::2], found[1::2], strict=True):
            if not isinstance(key, str):  # a key of tuples could take for ever to be hashed
                raise TypeError
            self._stack[-1][key] = value


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Described:  # noqa: ANN401
    sizes = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)
    if not isinstance(storage, Storage) or not sizes or not _is_size(offset):
        raise TypeError
    if not all(map(_is_size, (*size, *stride))) or len(size) > _MOST_DIMENSIONS:
        raise TypeError
    return Described(storage, int(offset), size, stride)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _shown(text: str) -> str:
    """Code's name, as one writes it."""
    return ascii(text.replace(" ", ".", 1))[1:-1][:80]


_CONSTANTS: Mapping[str, Callable[[], object]] = {
    "MARK": lambda: _MARK,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_VALUES = frozenset(
    {
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "FLOAT",
        "BINFLOAT",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
    }
)
_STORED = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_RECALLED = frozenset({"GET", "BINGET", "LONG_BINGET"})
_DONE: Mapping[str, Callable[[_Machine, Any], None]] = {
    "GLOBAL": lambda machine, name: machine._named(name),
    "STACK_GLOBAL": lambda machine, _: machine._named_on_stack(),
    "REDUCE": lambda machine, _: machine._called(),
    "BINPERSID": lambda machine, _: machine._storage(),
    "BUILD": lambda machine, _: machine._built(),
    "TUPLE": lambda machine, _: machine._tuple(None),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "APPEND": lambda machine, _: machine._extended([machine.pop()]),
    "APPENDS": lambda machine, _: machine._extended(machine._arguments()),
    "SETITEM": lambda machine, _: machine._filled([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine._filled(machine._arguments()),
}
