"""An evaluation as a table, as JSON and as one page."""

from __future__ import annotations

from pathlib import Path

from stenopool.evaluation.report.document import SCHEMA, Document, document, to_json
from stenopool.evaluation.report.page import page
from stenopool.evaluation.report.table import tables
from stenopool.files import make_folder, write_whole

__all__ = ["SCHEMA", "Document", "document", "page", "tables", "to_json", "write"]


def write(report: Document, folder: Path) -> list[Path]:
    """Write `report.json` and `report.html`; each appears whole or not at all.

    Raises:
        OutputError: the folder cannot take them.
    """
    make_folder(folder)
    files = {folder / "report.json": to_json(report), folder / "report.html": page(report)}
    for path, text in files.items():
        write_whole(path, text)
    return list(files)
