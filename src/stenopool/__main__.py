"""`python -m stenopool` is `steno`."""

from __future__ import annotations

from stenopool.cli import main

main()
