"""The weights of our models in the peers' formats: written once, kept in the user's cache."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

from platformdirs import user_cache_path

from stenopool.errors import EngineMissing, UnknownName
from stenopool.files import PARTIAL, give_name, make_folder, output_error
from stenopool.models import LocalModel
from stenopool.models.formats.ggml import Precision, write_ggml
from stenopool.models.formats.openai import write_openai
from stenopool.models.formats.reading import read_whisper
from stenopool.models.formats.transformers import write_transformers

AS_IT_IS = "ctranslate2"
_VERSION = 1  # of what the functions below write
_STALE_SECONDS = 24 * 3600.0  # a conversion that is older was killed


def cache() -> Path:
    """Folder of the converted models; it may be deleted at any time."""
    return user_cache_path("stenopool") / "peers"


def converted(model: LocalModel, form: str, convert: Callable[[Path, Path], None]) -> Path:
    """The folder with a model in a format, made if it is not there.

    Args:
        model: verified.
        form: of `FORMS`.
        convert: writes a model's folder as another folder; in a process of its own, so that neither
            time nor memory of it counts for anybody.

    Raises:
        ModelError, EngineError, OutputError: by name.
    """
    if form == AS_IT_IS:
        return model.folder
    target = cache() / f"{_identity(model)}-{form}-{_VERSION}"
    if target.is_dir():
        return target
    make_folder(cache())
    _sweep()
    workspace = Path(mkdtemp(dir=cache(), prefix=PARTIAL))
    try:
        convert(model.folder, workspace)
        _install(workspace, target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)  # what stays is swept a day later
    return target


def write(*, source: str, target: str, form: str) -> None:
    """Convert here and now; see `FORMS`.

    Raises:
        UnknownName: no such format.
        ModelError, EngineError, OutputError: by name.
    """
    if form not in FORMS:
        raise UnknownName(f"unknown format: `{form}`", do=f"Use one of: {', '.join(FORMS)}")
    FORMS[form](Path(source), Path(target))


def _ggml(source: Path, target: Path) -> None:
    write_ggml(read_whisper(source), target / "model.bin")


def _ggml_eight_bits(source: Path, target: Path) -> None:
    write_ggml(read_whisper(source), target / "model.bin", Precision.EIGHT_BITS)


def _openai(source: Path, target: Path) -> None:
    write_openai(read_whisper(source), target / "model.pt")


def _transformers(source: Path, target: Path) -> None:
    write_transformers(read_whisper(source), target)


def _openvino(source: Path, target: Path) -> None:
    _export(source, target, "fp16")


def _openvino_eight_bits(source: Path, target: Path) -> None:
    _export(source, target, "int8")


def _export(source: Path, target: Path, weights: str) -> None:
    """By way of Transformers, with the exporter that GenAI's documentation names."""
    try:
        from optimum.exporters.openvino import main_export
        from optimum.intel import OVConfig, OVWeightQuantizationConfig
    except ImportError as error:
        raise EngineMissing(
            f"writing OpenVINO's format needs `optimum-intel`: {error}",
            do="Run `pip install 'stenopool[bench]'`",
        ) from error
    eight_bits = OVWeightQuantizationConfig(bits=8) if weights == "int8" else None
    between = target / "transformers"
    between.mkdir()
    _transformers(source, between)
    main_export(
        str(between),
        target,
        task="automatic-speech-recognition-with-past",
        stateful=True,
        convert_tokenizer=True,
        local_files_only=True,
        library_name="transformers",
        ov_config=OVConfig(dtype=weights, quantization_config=eight_bits),
    )
    shutil.rmtree(between)


FORMS: dict[str, Callable[[Path, Path], None]] = {
    "ggml-float16": _ggml,
    "ggml-int8": _ggml_eight_bits,
    "openai": _openai,
    "openvino-float16": _openvino,
    "openvino-int8": _openvino_eight_bits,
    "transformers": _transformers,
}


def _identity(model: LocalModel) -> str:
    """Of all files that a conversion reads."""
    digest = hashlib.sha256(model.sha256.encode())
    for name in ("config.json", "tokenizer.json"):
        digest.update((model.folder / name).read_bytes())
    return digest.hexdigest()[:20]


def _install(workspace: Path, target: Path) -> None:
    try:
        give_name(workspace, target)
    except OSError as error:
        if not target.is_dir():  # else another process was faster, with the same result
            raise output_error(target, error) from error


def _sweep() -> None:
    for partial in cache().glob(f"{PARTIAL}*"):
        if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)
