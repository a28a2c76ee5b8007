"""The packages that only training needs."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from stenopool.errors import UsageError

PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "jiwer", "rapidfuzz")
INSTALL = "pip install 'stenopool[train]'"


def check_extras(packages: tuple[str, ...] = PACKAGES) -> None:
    """Say what is missing or does not work before any work is done.

    Raises:
        UsageError: a package of the extra `train` is not installed, or cannot be imported.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UsageError(
            f"training needs packages that are not installed: {', '.join(missing)}",
            do=f"Run `{INSTALL}`",
        )
    for package in packages:
        try:
            import_module(package)
        except Exception as error:  # a broken install raises whatever its libraries do
            raise UsageError(
                f"training needs `{package}`, which is installed and cannot be imported: "
                f"{type(error).__name__}: {error!s:.200}",
                do=f"Install it again: `{INSTALL} --force-reinstall`",
            ) from error
