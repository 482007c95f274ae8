"""Files of tests, and what an import makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tactful.imports.convert import Converter
from tactful.imports.formats.rows import Place, RejectedRow
from tactful.imports.options import ImportOptions
from tactful.imports.progress import ProgressStore
from tactful.imports.run import Job, prepare


def understood(path: Path, **options: Any) -> Job:
    """Open a file and guess its plan."""
    given = ImportOptions(**options)
    return prepare(path, given, "http://server", ProgressStore(None), restart=True)


def converted(path: Path, count: int = 500, **options: Any) -> tuple[list[Any], list[RejectedRow]]:
    """Return the elements that are made of all rows of a file, and the rejected rows."""
    job = understood(path, **options)
    convert = Converter(job.guess.plan, job.reader.columns, job.reader.types)
    elements, rejected = [], []
    for rows in job.reader.rows(Place(), count):
        found = convert(rows)
        elements += [json.loads(line) for line in found.lines]
        rejected += found.rejected
    return elements, rejected


def mapping(path: Path, **options: Any) -> dict[str, str]:
    """Return from which columns the fields come, and their constants."""
    plan = understood(path, **options).guess.plan
    columns = {it.target: "+".join(it.columns) for it in plan.fields}
    return columns | {name: f"={value}" for name, value in plan.constants.items()}


def without_ids(elements: list[Any]) -> list[Any]:
    """Return events without the ids that were made for them."""
    return [{k: v for k, v in it.items() if k != "event_id"} for it in elements]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """Write a file byte for byte."""
    path.write_bytes(text.encode(encoding))
    return path
