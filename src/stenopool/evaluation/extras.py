"""The packages that only evaluation needs."""

from __future__ import annotations

from importlib.util import find_spec

from stenopool.errors import UsageError

PACKAGES = ("jiwer", "rapidfuzz", "whisper_normalizer", "matplotlib", "jinja2")


def check_extras(packages: tuple[str, ...] = PACKAGES) -> None:
    """Say what is missing before any work is done.

    Raises:
        UsageError: a package of the extra `evaluate` is not installed.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UsageError(
            f"evaluation needs packages that are not installed: {', '.join(missing)}",
            do="Run `pip install 'stenopool[evaluate]'`",
        )
