"""Tables with a download as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from tactful_ui.components.words import text as _


def show(rows: Sequence[Mapping[str, Any]], name: str, *, height: int | None = None) -> None:
    """Draw rows as a table that can be sorted, with a button that saves them as CSV.

    Args:
        rows: the same columns in each; titles of columns are the keys.
        name: name of the file, without its ending; also the key of the button.
        height: height in pixels; None fits the rows.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = {column: [row.get(column) for row in rows] for column in columns}
    st.dataframe(table, hide_index=True, width="stretch", height=height or "auto")
    download(rows, name)


def download(rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Draw a small button that saves rows as CSV."""
    st.download_button(
        _("CSV"),
        csv_of(rows),
        file_name=f"{name}.csv",
        mime="text/csv",
        key=f"csv-{name}",
        icon=":material/download:",
        type="tertiary",
    )


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a header.

    A text that begins as a formula of spreadsheets gets an apostrophe in front, since ids and
    titles come from outside (OWASP, CSV Injection).
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_safe(row.get(column)) for column in columns] for row in rows)
    return file.getvalue()


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value
