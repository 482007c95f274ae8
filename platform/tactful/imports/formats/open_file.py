"""Opens a file with the reader of its format, by its content and then by its name."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from tactful.errors import ConfigError, DatasetError
from tactful.imports.formats.delimited import DelimitedReader, path_suffixes
from tactful.imports.formats.excel import ExcelReader
from tactful.imports.formats.json_rows import JsonArrayReader, JsonLinesReader
from tactful.imports.formats.parquet import ParquetReader
from tactful.imports.formats.product_feed import ProductFeedReader
from tactful.imports.formats.rows import Reader, readable
from tactful.imports.formats.shopify import ShopifyReader, is_shopify
from tactful.imports.formats.text_file import TextFile, open_text
from tactful.imports.options import Format, ImportOptions

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIP = b"PK\x03\x04"
_PARQUET = b"PAR1"
_UNREADABLE = {
    b"%PDF": "a PDF",
    b"ARROW1": "an Arrow file: write it as Parquet",
    b"ORC": "an ORC file: write it as Parquet",
    b"Obj\x01": "an Avro file: write it as Parquet or JSON lines",
    b"SQLite format 3": "an SQLite database: export its table as CSV",
    b"\x89HDF": "an HDF5 file: write it as Parquet",
    b"BZh": "compressed by bzip2: unpack it, or compress it with gzip",
    b"\xfd7zXZ": "compressed by xz: unpack it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it, or compress it with gzip",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
}


def open_file(path: Path, options: ImportOptions) -> Reader:
    """Open a file for reading.

    Raises:
        ConfigError: if an option does not fit the file.
        DatasetError: if it is empty, damaged or of another format.
        TactfulError: if the library for the format is not installed.
    """
    with readable(path):
        if not path.is_file():
            raise DatasetError(f"{path}: is no regular file: write its content to one first")
        with path.open("rb") as file:
            head = file.read(16)
        if not head:
            raise DatasetError(f"{path}: is empty")
        format_ = options.format or _binary_format(path, head)
        if format_ in ("parquet", "excel"):
            _refuse(path, options, format_, "encoding", "delimiter", "columns")
        if format_ != "excel":
            _refuse(path, options, "no Excel", "sheet")
        if format_ == "parquet":
            return ParquetReader(path)
        if format_ == "excel":
            return ExcelReader(path, options.sheet)
        return _open_text(open_text(path, options.encoding), format_, options)


def _refuse(path: Path, options: ImportOptions, format_: str, *names: str) -> None:
    """Refuse options that would change nothing."""
    for name in names:
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name} has no effect: {path} is {format_}")


def _binary_format(path: Path, head: bytes) -> Format | None:
    """Return the format of a file that is no text, or None."""
    if head.startswith(_PARQUET):
        return "parquet"
    if head.startswith(_OLE):
        return "excel"
    if head.startswith(_ZIP):
        if not _is_workbook(path):
            raise DatasetError(f"{path}: is a ZIP archive: unpack it, and import the files in it")
        return "excel"
    for mark, what in _UNREADABLE.items():
        if head.startswith(mark):
            raise DatasetError(
                f"{path}: is {what}. Import reads CSV, TSV, JSON lines, Parquet, Excel and product "
                "feeds"
            )
    return None


def _is_workbook(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except zipfile.BadZipFile as error:
        raise DatasetError(f"{path}: is damaged or cut: {error}") from error
    return "mimetype" in names or any(name.startswith("xl/") for name in names)


def _open_text(text: TextFile, format_: Format | None, options: ImportOptions) -> Reader:
    if format_ is None:
        format_ = _text_format(text)
    reader: Reader
    if format_ in ("feed", "json", "jsonl"):
        _refuse(text.path, options, format_, "delimiter", "columns")
    if format_ == "feed":
        return ProductFeedReader(text)
    if format_ == "json":
        reader = JsonArrayReader(text)
    elif format_ == "jsonl":
        reader = JsonLinesReader(text)
    else:
        delimiter = "\t" if format_ == "tsv" else options.delimiter
        table = DelimitedReader(text, delimiter, options.columns)
        reader = table
        if format_ == "shopify" or (format_ is None and is_shopify(table.columns)):
            reader = _shopify(table, options)
    if text.guessed:
        reader.notes.append(f"not UTF-8: read as {text.about} (--encoding NAME if that is wrong)")
    return reader


def _shopify(table: DelimitedReader, options: ImportOptions) -> Reader:
    if not is_shopify(table.columns):
        raise DatasetError(
            f"{table.path}: is no Shopify export: it has no columns Handle, Title and Variant Price"
        )
    names = [pair.partition("=") for pair in options.maps]
    items = [column.strip() for name, _, column in names if name.strip() in ("item", "item_id")]
    return ShopifyReader(table, items[0] if items else None)


def _text_format(text: TextFile) -> Format | None:
    """Return the format of a text by its first letters; None of delimited text."""
    lines = text.samples()[0]
    head = "".join(lines[:200]) or _beginning(text)
    begin = head.lstrip()[:2]
    if begin.startswith("<"):
        if re.match(r"\s*<(!doctype\s+)?html", head, re.IGNORECASE):
            raise DatasetError(f"{text.path}: is a web page, perhaps an error or a login")
        return "feed"
    if begin.startswith("["):
        return "json" if re.match(r"\s*\[\s*(\{|\]|$)", head) else None
    if begin.startswith("{"):
        return "jsonl"
    return "tsv" if path_suffixes(text.path)[-1:] in ([".tsv"], [".tab"]) else None


def _beginning(text: TextFile) -> str:
    """Return the beginning of a file without lines."""
    with text.open() as file:
        return file.read(4096)[text.mark :].decode(text.encoding, "replace")
