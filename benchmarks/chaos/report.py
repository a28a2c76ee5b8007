"""What a command has found: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Report:
    """Figures, and the claims that do not hold.

    Attributes:
        title: of the table.
        figures: name, and value or row of values.
        problems: what does not hold; empty is best.
        skipped: what was not tried, and why.
    """

    title: str
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, problems: Sequence[str]) -> None:
        """Problems of a part."""
        self.problems += [f"{name}: {one}" for one in problems]

    def require(self, holds: bool, problem: str) -> None:
        """Note a problem unless something holds."""
        if not holds:
            self.problems.append(problem)

    def show(self) -> None:
        """Print the table."""
        print(f"\n{self.title}")
        width = max((len(name) for name in self.figures), default=0)
        for name, value in self.figures.items():
            print(f"  {name:<{width}}  {_shown(value)}")
        for name, reason in self.skipped.items():
            print(f"  skipped: {name}: {reason}")
        for problem in self.problems:
            print(f"  FAILED: {problem}")
        if not self.problems:
            print("  every claim holds")

    def write(self, path: Path) -> None:
        """Write the figures as JSON."""
        data = {
            "title": self.title,
            "figures": self.figures,
            "problems": self.problems,
            "skipped": self.skipped,
        }
        path.write_text(json.dumps(data, indent=2, default=str) + "\n", encoding="utf-8")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    return str(value)
