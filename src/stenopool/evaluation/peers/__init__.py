"""Other projects' recognisers on the same weights; one small module for each.

Their packages are imported only in the process that runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import MappingProxyType
from typing import Self

from stenopool.errors import EngineMissing, UnknownName, UsageError

Setting = int | str

_BEAM = (5, range(1, 33))  # default and what is allowed; each project's own default
_BATCH = (8, range(1, 65))


@dataclass(frozen=True, slots=True)
class Peer:
    """How another project's recogniser is loaded.

    Attributes:
        factory: function of a module of this package.
        module: that its package gives; to see whether it is installed.
        forms: the format of the weights for each precision; the first is the default.
        settings: whole numbers that it takes, with their defaults and ranges.
    """

    factory: str
    module: str
    forms: Mapping[str, str] = field(hash=False)
    settings: Mapping[str, tuple[int, range]] = field(hash=False, default_factory=dict)

    @property
    def installed(self) -> bool:
        return find_spec(self.module) is not None


_CTRANSLATE2 = {"int8": "ctranslate2", "float32": "ctranslate2"}

PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "faster-whisper": Peer(
            "faster_whisper:sequential", "faster_whisper", _CTRANSLATE2, {"beam": _BEAM}
        ),
        "faster-whisper-batched": Peer(
            "faster_whisper:batched",
            "faster_whisper",
            _CTRANSLATE2,
            {"beam": _BEAM, "batch": _BATCH},
        ),
        "whisper.cpp": Peer(
            "whisper_cpp:load",
            "pywhispercpp",
            {"float16": "ggml-float16", "int8": "ggml-int8"},
            {"beam": _BEAM},
        ),
        "openvino-genai": Peer(
            "openvino_genai:load",
            "openvino_genai",
            {"float16": "openvino-float16", "int8": "openvino-int8"},
        ),
        "transformers": Peer(
            "transformers:load",
            "transformers",
            {"float32": "transformers", "bfloat16": "transformers"},
            {"beam": (1, range(1, 33)), "batch": _BATCH},
        ),
        "openai-whisper": Peer(
            "openai_whisper:load", "whisper", {"float32": "openai"}, {"beam": _BEAM}
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Order:
    """A peer with its settings, as a user writes it: `faster-whisper-batched:beam=1,batch=16`.

    Attributes:
        name: of `PEERS`.
        settings: of its factory, all of them.
    """

    name: str
    settings: Mapping[str, Setting] = field(hash=False)

    @classmethod
    def of(cls, text: str) -> Self:
        """Read what a user wrote.

        Raises:
            UnknownName: no such peer or setting.
            UsageError: a setting has a value that it cannot have.
        """
        name, _, rest = text.partition(":")
        if name not in PEERS:
            raise UnknownName(f"unknown peer: `{name}`", do=f"Use one of: {', '.join(PEERS)}")
        peer = PEERS[name]
        chosen: dict[str, Setting] = {"precision": next(iter(peer.forms))}
        chosen |= {one: default for one, (default, _) in peer.settings.items()}
        for part in filter(None, rest.split(",")):
            key, _, value = part.partition("=")
            if key not in chosen:
                raise UnknownName(
                    f"`{name}` has no setting `{key}`", do=f"Use of: {', '.join(chosen)}"
                )
            chosen[key] = _setting(peer, text, key, value)
        return cls(name, chosen)

    @property
    def factory(self) -> str:
        return f"{__name__}.{PEERS[self.name].factory}"

    @property
    def form(self) -> str:
        """The format of the weights that it needs."""
        return PEERS[self.name].forms[str(self.settings["precision"])]

    def check(self) -> None:
        """Say what is missing before any work is done.

        Raises:
            EngineMissing: the peer's package is not installed.
        """
        if not PEERS[self.name].installed:
            raise EngineMissing(
                f"the peer `{self.name}` is not installed",
                do="Run `pip install 'stenopool[bench]'`",
            )


def _setting(peer: Peer, text: str, key: str, value: str) -> Setting:
    if key == "precision":
        allowed, given = list(map(str, peer.forms)), value
        shown = " or ".join(allowed)
        if given in allowed:
            return given
    else:
        _, numbers = peer.settings[key]
        shown = f"{numbers.start} to {numbers.stop - 1}"
        if value.isascii() and value.isdigit() and int(value) in numbers:
            return int(value)
    raise UsageError(f"`{text}`: `{key}` cannot be `{value}`", do=f"Give {shown}")
