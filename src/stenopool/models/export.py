"""A Whisper model in the format of another project, with a card that says what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stenopool.errors import UnknownName, UnsupportedOption
from stenopool.files import folder_beside, give_name, make_folder, refuse_existing, write_whole
from stenopool.models.card import export_card
from stenopool.models.facts import facts_of
from stenopool.models.formats.ctranslate2_writer import PRECISIONS as CTRANSLATE2_PRECISIONS
from stenopool.models.formats.ctranslate2_writer import write_ctranslate2
from stenopool.models.formats.ggml import PRECISIONS as GGML_PRECISIONS
from stenopool.models.formats.ggml import write_ggml
from stenopool.models.formats.model import Whisper
from stenopool.models.formats.openai import PRECISIONS as OPENAI_PRECISIONS
from stenopool.models.formats.openai import write_openai
from stenopool.models.formats.openvino import PRECISIONS as OPENVINO_PRECISIONS
from stenopool.models.formats.openvino import write_openvino
from stenopool.models.formats.reading import GGML_FILE, OPENAI_FILE, read_whisper
from stenopool.models.formats.transformers import PRECISIONS as TRANSFORMERS_PRECISIONS
from stenopool.models.formats.transformers import write_documents, write_transformers
from stenopool.models.formats.transformers_js import PRECISIONS as ONNX_PRECISIONS
from stenopool.models.formats.transformers_js import write_onnx
from stenopool.models.local import LocalModel

AUTO = "auto"
CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Target:
    """A format.

    Attributes:
        precisions: that it can be written in, the default one first.
        write: fills a folder.
        file: the name of the one file that holds the model, where there is one.
    """

    precisions: Sequence[str]
    write: Callable[[Whisper, Path, str], None]
    file: str = ""


def _openai(whisper: Whisper, folder: Path, precision: str) -> None:
    write_documents(whisper, folder)
    write_openai(whisper, folder / OPENAI_FILE, precision)


def _ggml(whisper: Whisper, folder: Path, precision: str) -> None:
    write_documents(whisper, folder)
    write_ggml(whisper, folder / GGML_FILE, GGML_PRECISIONS[precision])


TARGETS = {
    "transformers": Target(TRANSFORMERS_PRECISIONS, write_transformers),
    "openai": Target(OPENAI_PRECISIONS, _openai, OPENAI_FILE),
    "ggml": Target(tuple(GGML_PRECISIONS), _ggml, GGML_FILE),
    "ctranslate2": Target(CTRANSLATE2_PRECISIONS, write_ctranslate2),
    "onnx": Target(ONNX_PRECISIONS, write_onnx),
    "openvino": Target(OPENVINO_PRECISIONS, write_openvino),
}


def export(
    model: LocalModel,
    to: str,
    output: Path,
    precision: str = AUTO,
    *,
    measured: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Write a model in another format; gives the names of the files.

    Args:
        model: verified.
        to: of `TARGETS`.
        output: a folder that is not there yet; or, where the format is one file, a name that ends
            as this one does: then the card lies beside it.
        precision: of those that the format has.
        measured: records of the decisions about the model, for its card; see `promotions`.

    Raises:
        UnknownName: no such format or precision.
        UnsupportedOption: the model is not Whisper, or float16 cannot hold its numbers.
        ModelDamaged: its files are damaged.
        EngineMissing: a package that writes this format is not installed.
        OutputError: the output is there already, or cannot be written.
    """
    target = TARGETS.get(to)
    if target is None:
        raise UnknownName(f"unknown format: `{to}`", do=f"Use one of: {', '.join(TARGETS)}")
    if model.kind != "whisper":
        raise UnsupportedOption(
            f"`{model.name}` is not a Whisper model, and only those can be exported",
            do="CTC models are in Transformers' format already",
        )
    chosen = _chosen(target, precision, to)
    refuse_existing(output)
    whisper = read_whisper(model.folder)
    make_folder(output.parent)
    with folder_beside(output) as fresh:
        target.write(whisper, fresh, chosen)
        told = (to, chosen, target.file, facts_of(model), measured)
        write_whole(fresh / CARD, export_card(model, whisper, *told))
        return _put(fresh, output, target)


def _chosen(target: Target, precision: str, to: str) -> str:
    if precision == AUTO:
        return target.precisions[0]
    if precision not in target.precisions:
        raise UnknownName(
            f"`{to}` has no precision `{precision}`",
            do=f"Use one of: {', '.join(target.precisions)}",
        )
    return precision


def _put(fresh: Path, output: Path, target: Target) -> list[str]:
    """Give what was written its name, the weights last."""
    if target.file and output.suffix == Path(target.file).suffix:
        files = {CARD: output.with_name(f"{output.name}.md"), target.file: output}
        for name, place in files.items():
            (fresh / name).replace(place)
        return [place.name for place in files.values()]
    names = sorted(str(file.relative_to(fresh)) for file in fresh.rglob("*") if file.is_file())
    give_name(fresh, output)
    return names
