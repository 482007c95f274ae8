"""Part of the page "Data": a file is uploaded, understood, previewed and imported."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Literal, cast

import streamlit as st

from tactful.client.messages import FilePreview, ImportKind, ImportMapping, NewImport
from tactful.client.routes import data as routes
from tactful_ui.components import formats, shell, tables
from tactful_ui.components.words import text as _
from tactful_ui.errors import BadAnswer, SourceError

_PART = 1024 * 1024
_UPLOAD, _STARTED, _IMPORTED = "upload", "started_import", "imported_files"


@dataclass(frozen=True)
class _Upload:
    """A file that the server has."""

    file: tuple[str, str]  # id of the file in this session, and kind
    import_id: str


def draw() -> None:
    """Draw the steps of an import: file, mapping, preview, progress."""
    if started := st.session_state.get(_STARTED):
        _progress(started)
    kinds = {"events": _("events"), "items": _("items"), "users": _("users")}
    kind = st.segmented_control(
        _("Content"), list(kinds), default="events", format_func=kinds.__getitem__
    )
    file = st.file_uploader(
        _("File: CSV, TSV, JSON lines, Parquet, Excel or a product feed"),
        key=f"file-{st.session_state.get(_IMPORTED, 0)}",
    )
    if file is None or kind is None:
        return
    try:
        upload = _uploaded(file, cast(ImportKind, kind))
        mapping = _mapping(cast(ImportKind, kind))
        seen = shell.ask(routes.preview_file(upload.import_id, mapping))
    except BadAnswer as failure:
        st.error(formats.plain(str(failure)), icon=":material/error:")
        return
    except SourceError as failure:
        shell.explain(failure)
        return
    _preview(seen)
    if st.button(_("Import this file"), type="primary", icon=":material/upload:"):
        try:
            shell.ask(routes.start_import(upload.import_id, mapping))
        except SourceError as failure:
            shell.explain(failure)
            return
        st.session_state.pop(_UPLOAD, None)
        st.session_state[_IMPORTED] = st.session_state.get(_IMPORTED, 0) + 1  # empties the field
        st.session_state[_STARTED] = upload.import_id
        st.rerun()


def _uploaded(file: Any, kind: ImportKind) -> _Upload:
    """Send a file in parts, once for each choice of file and kind."""
    key = (str(file.file_id), str(kind))
    known = st.session_state.get(_UPLOAD)
    if known is not None and known.file == key:
        return cast(_Upload, known)
    upload = _Upload(key, uuid.uuid4().hex)
    shell.ask(routes.register_import(upload.import_id, NewImport(name=file.name, kind=kind)))
    content = file.getbuffer()
    bar = st.progress(0.0, text=_("Uploading"))
    for offset in range(0, len(content), _PART):
        part = bytes(content[offset : offset + _PART])
        shell.ask(routes.upload(upload.import_id, offset, part))
        bar.progress(min((offset + _PART) / len(content), 1.0), text=_("Uploading"))
    bar.empty()
    st.session_state[_UPLOAD] = upload
    return upload


def _mapping(kind: ImportKind) -> ImportMapping:
    """Return what the reader says about the columns; the rest is guessed."""
    with st.expander(_("Correct the guess")):
        text = st.text_area(
            _("Columns, one a line"),
            placeholder="user=customer_no\nprice=Preis",
            help=_("Field = column, as with `tactful import --map`."),
        )
        values = st.text_area(
            _("Values of all rows, one a line"),
            placeholder="type=purchase",
            help=_("Field = value, as with `tactful import --set`."),
        )
        zone = st.text_input(_("Time zone"), placeholder="Europe/Berlin")
        signs = {"": _("guessed"), "point": "1.5", "comma": "1,5"}
        decimal = st.selectbox(_("Decimal sign"), list(signs), format_func=signs.__getitem__)
    return ImportMapping(
        kind=kind,
        maps=_pairs(text),
        constants=_pairs(values),
        time_zone=zone.strip() or None,
        decimal=cast(Literal["point", "comma"], decimal) if decimal else None,
    )


def _pairs(text: str) -> dict[str, str]:
    """Return the values by name of lines such as ``user=customer_no``."""
    lines = [line.partition("=") for line in text.splitlines() if line.strip()]
    return {name.strip(): value.strip() for name, _sign, value in lines}


def _preview(seen: FilePreview) -> None:
    st.markdown(f"**{formats.plain(seen.format)}**")
    columns = {column: field for field, column in seen.mapping.items()}
    tables.show(
        [
            {_("Column of the file"): column, _("Field"): columns.get(column, "")}
            for column in dict.fromkeys((*columns, *seen.columns))
        ],
        "mapping",
    )
    for note in seen.notes:
        st.caption(formats.plain(note))
    st.markdown(_("**The first rows, as they would be sent**"))
    tables.show(
        [{name: str(value) for name, value in element.items()} for element in seen.elements],
        "preview",
    )
    if seen.refused:
        st.warning(_("These rows would be refused:"), icon=":material/block:")
        tables.show(
            [
                {_("Row"): row.row, _("Code"): row.code, _("Reason"): row.message}
                for row in seen.refused
            ],
            "refused",
        )


@st.fragment(run_every=2)
def _progress(import_id: str) -> None:
    """Draw how far an import is, until it has ended."""
    try:
        found = shell.ask(routes.import_(import_id))
    except SourceError as failure:
        shell.explain(failure)
        return
    counts = _(
        "{name}: {accepted} accepted, {refused} refused.",
        name=formats.plain(found.name),
        accepted=f"{found.accepted:,}",
        refused=f"{found.refused:,}",
    )
    if found.problem:
        st.error(f"{counts} {formats.plain(found.problem)}", icon=":material/error:")
    elif found.ended_at is None:
        st.info(f"{counts} {_('The import runs.')}", icon=":material/hourglass_top:")
    else:
        st.success(f"{counts} {_('The import is complete.')}", icon=":material/check:")
    if found.ended_at is not None or found.problem:
        st.session_state.pop(_STARTED, None)
