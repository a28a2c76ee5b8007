"""Model files on this machine: which they are, what they hold, and what they hash to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stenopool.errors import ModelNotPulled
from stenopool.models.catalogue import Kind, ModelEntry, shown
from stenopool.models.files import WAV2VEC2, is_folder, model_type, regular, sha256
from stenopool.models.opened import opened

USER_FILES = ("model.bin", "config.json", "tokenizer.json")
FILE_ENDINGS = (".pt", ".bin")  # of models that are one file
CTC_FILES = ("model.safetensors", "config.json", "vocab.json", "tokenizer_config.json")
# Of these a folder may have some, and what they say goes into the text.
CTC_MORE = (
    "preprocessor_config.json",
    "processor_config.json",
    "added_tokens.json",
    "scorer.arpa",
    "scorer.binary",
    "scorer.json",
)
_MORE: Mapping[Kind, tuple[str, ...]] = {
    "ctc": (*CTC_MORE, "special_tokens_map.json", "README.md"),
    "whisper": (
        "vocabulary.json",
        "vocabulary.txt",
        "preprocessor_config.json",
        "generation_config.json",
        "README.md",
    ),
}


@dataclass(frozen=True, slots=True)
class LocalModel:
    """Verified model files.

    Args:
        name: of the catalogue, or of the user's folder.
        folder: where the files are.
        sha256: of the weights, in hexadecimal; of a CTC model, of all that its text depends on.
        entry: what the catalogue says of it; None for a user's folder.
        user_kind: what a user's folder holds.
        origin: the user's folder, where `folder` is what was rewritten of it for the engines.
    """

    name: str
    folder: Path
    sha256: str
    entry: ModelEntry | None
    user_kind: Kind = "whisper"
    origin: Path | None = field(default=None, compare=False)

    @property
    def kind(self) -> Kind:
        """What the model does."""
        return self.entry.kind if self.entry else self.user_kind

    @property
    def weights(self) -> Path:
        """The file that holds the weights."""
        files = CTC_FILES if self.kind == "ctc" else USER_FILES
        return self.folder / (self.entry.weights if self.entry else files[0])


def user_model(name: str | Path) -> LocalModel:
    """The model in a user's folder or file; what is in it says of which kind it is.

    Raises:
        ModelNotPulled: there is no such folder, nor a file of a model.
        ModelDamaged: a file is missing or cannot be read.
        OutputError: it is of another format, and cannot be rewritten for the engines.
    """
    from stenopool.models.formats.ctranslate2 import is_ctranslate2, refuse_damaged_numbers

    folder = Path(name)
    rewritten = opened(folder)
    if rewritten:
        return LocalModel(*rewritten, None, origin=folder if is_folder(folder) else None)
    if not is_folder(folder):
        raise ModelNotPulled(
            f"no model folder `{shown(os.fspath(name))}`",
            do="Give the path of a folder, or a name that `steno models list` shows",
        )
    if model_type(folder) == WAV2VEC2:
        return _ctc_model(folder)
    advice = "A model folder needs " + ", ".join(f"`{file}`" for file in USER_FILES)
    for file in USER_FILES:
        if (folder / file).is_symlink():
            regular(folder / file)  # else it could be any file of this machine
    found = {file: sha256(folder / file, advice) for file in USER_FILES}
    if is_ctranslate2(folder / USER_FILES[0]):  # else engines say what is wrong with it
        refuse_damaged_numbers(folder)
    return LocalModel(folder.resolve().name, folder, found[USER_FILES[0]], None)


def _ctc_model(folder: Path) -> LocalModel:
    """Its identity is that of every file that the text depends on."""
    pickled = (folder / "pytorch_model.bin").exists()
    advice = "A CTC model's folder needs " + ", ".join(f"`{file}`" for file in CTC_FILES)
    if pickled and not (folder / CTC_FILES[0]).exists():
        advice = (
            "`pytorch_model.bin` could run any code: save the model again with "
            "`model.save_pretrained(folder, safe_serialization=True)`"
        )
    files = [*CTC_FILES, *(file for file in CTC_MORE if (folder / file).exists())]
    hashes = [[file, sha256(folder / file, advice)] for file in files]
    identity = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    return LocalModel(folder.resolve().name, folder, identity, None, "ctc")


def files_of(model: LocalModel) -> dict[str, Path]:
    """The files that a user's model is made of, by name, and those that may go with them.

    Raises:
        ModelDamaged: one is missing, or a link that leads out of the folder.
    """
    wanted = CTC_FILES if model.kind == "ctc" else USER_FILES
    more = [name for name in _MORE[model.kind] if (model.folder / name).is_file()]
    return {name: regular(model.folder / name) for name in sorted({*wanted, *more})}


def is_model_file(name: str) -> bool:
    """Whether a bare name is that of a file here, and ends as a model's does."""
    try:
        return name.endswith(FILE_ENDINGS) and Path(name).is_file()
    except (OSError, ValueError):
        return False
