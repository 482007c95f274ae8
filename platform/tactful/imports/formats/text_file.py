"""Text files: compression, encoding, lines, and the hash of the part that was read."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from tactful.errors import ConfigError, DatasetError
from tactful.imports.formats.rows import ChangedFile, Place

_CHUNK = 256 * 1024
_HEAD = 256 * 1024  # sampled at the beginning
_PACKED_HEAD = 4 * 1024 * 1024  # of a compressed file, whose middle cannot be reached
_BLOCKS, _BLOCK = 32, 32 * 1024  # sampled in the rest, at even distances
_GZIP = b"\x1f\x8b"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LEGACY = ("cp1252", "gb18030")  # guessed where the text is not Unicode


@dataclass(frozen=True)
class TextFile:
    """A text file, and how it is encoded.

    Attributes:
        path: the file.
        packed: whether it is compressed by gzip.
        encoding: name of a codec of Python.
        mark: number of bytes of the byte order mark.
        newline: the end of a line.
    """

    path: Path
    packed: bool
    encoding: str
    mark: int
    newline: str

    @property
    def about(self) -> str:
        """The encoding in words."""
        names = {"cp1252": "Windows-1252", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}
        name = names.get(self.encoding, self.encoding.upper())
        return f"{name}, gzip" if self.packed else name

    @property
    def guessed(self) -> bool:
        """Whether the encoding is a guess that may be wrong."""
        return self.encoding in _LEGACY

    def open(self) -> BinaryIO:
        """Open the file for reading of unpacked bytes."""
        return cast(BinaryIO, gzip.open(self.path)) if self.packed else self.path.open("rb")

    def samples(self) -> list[list[str]]:
        """Return whole lines from the beginning, and from places all over the file."""
        with self.open() as file:
            if self.packed:
                head = file.read(_PACKED_HEAD)
                return [self._lines_of(head[self.mark :], whole=len(head) < _PACKED_HEAD)]
            size = self.path.stat().st_size
            if size <= _HEAD + _BLOCKS * _BLOCK:
                return [self._lines_of(file.read()[self.mark :], whole=True)]
            samples = [self._lines_of(file.read(_HEAD)[self.mark :], whole=False)]
            step = (size - _HEAD) // _BLOCKS
            for number in range(1, _BLOCKS + 1):
                file.seek(_even(_HEAD + number * step - _BLOCK))
                samples.append(self._lines_of(file.read(_BLOCK), whole=False)[1:])
        return samples

    def _lines_of(self, part: bytes, *, whole: bool) -> list[str]:
        """Split a part of the file; a last line that it cuts is left out."""
        *lines, rest = part.decode(self.encoding, "replace").split(self.newline)
        return [f"{line}{self.newline}" for line in ([*lines, rest] if whole and rest else lines)]


class LineReader:
    """Lines of a text file behind a place, and the place behind the last line."""

    def __init__(self, text: TextFile, start: Place) -> None:
        """Open the file at a place.

        Raises:
            ChangedFile: if the bytes before it have another hash.
        """
        self._text = text
        self._file = text.open()
        self._sha = hashlib.sha256()
        self._place = start
        self._read: list[bytes] = []
        missing = start.offset
        while missing:
            chunk = self._file.read(min(missing, _CHUNK))
            if not chunk:
                break
            self._sha.update(chunk)
            missing -= len(chunk)
        if missing or (start.offset and self._sha.hexdigest() != start.sha256):
            self._file.close()
            raise ChangedFile(
                f"{text.path}: its first {start.rows:,} lines are not those of the last run"
            )
        if not start.offset and text.mark:
            mark = self._file.read(text.mark)
            self._sha.update(mark)
            self._place = Place(0, text.mark, "")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def raw(self) -> Iterator[bytes]:
        """Yield the lines as bytes, with their ends."""
        if self._text.newline == "\n" and not self._text.encoding.startswith("utf-16"):
            for line in self._file:
                self._read.append(line)
                yield line
            return
        for text in self._split():
            line = text.encode(self._text.encoding)
            self._read.append(line)
            yield line

    def __iter__(self) -> Iterator[str]:
        """Yield the lines as text, with their ends."""
        encoding = self._text.encoding
        for line in self.raw():
            try:
                yield line.decode(encoding)
            except UnicodeDecodeError:
                if encoding != "cp1252":
                    raise self._undecodable() from None
                yield line.decode("latin-1")  # five bytes have no letter in Windows-1252

    def place(self) -> Place:
        """Return the place behind the last line that was read."""
        if self._read:
            joined = b"".join(self._read)
            self._sha.update(joined)
            rows, offset = self._place.rows + len(self._read), self._place.offset + len(joined)
            self._place = Place(rows, offset, self._sha.hexdigest())
            self._read.clear()
        return self._place

    def _split(self) -> Iterator[str]:
        """Split decoded text at line ends that are no single bytes, or carriage returns."""
        decoder = codecs.getincrementaldecoder(self._text.encoding)()
        rest, newline = "", self._text.newline
        while chunk := self._file.read(_CHUNK):
            try:
                rest += decoder.decode(chunk)
            except UnicodeDecodeError:
                raise self._undecodable() from None
            *lines, rest = rest.split(newline)
            yield from (f"{line}{newline}" for line in lines)
        if rest:
            yield rest

    def _undecodable(self) -> DatasetError:
        line = self._place.rows + len(self._read)
        return DatasetError(
            f"{self._text.path}:{line}: is not {self._text.about}: give the encoding of the "
            "file, such as --encoding windows-1252"
        )


def open_text(path: Path, encoding: str | None) -> TextFile:
    """Determine the encoding of a text file; `encoding` overrides the guess.

    Raises:
        ConfigError: if there is no such encoding.
        DatasetError: if the file holds no text.
    """
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    draft = TextFile(path, packed, "utf-8", 0, "\n")
    with draft.open() as unpacked:
        head = unpacked.read(_HEAD)
    marked = next(((len(mark), name) for mark, name in _BOMS if head.startswith(mark)), None)
    if encoding is None:
        mark, name = marked or (0, _guess(path, draft, head))
    else:
        name = _codec(encoding, "utf-16-le" if marked is None else marked[1])
        mark = marked[0] if marked is not None and marked[1] == name else 0
    text = head[mark:].decode(name, "replace")
    newline = "\r" if "\r" in text and "\n" not in text else "\n"
    return TextFile(path, packed, name, mark, newline)


def _guess(path: Path, draft: TextFile, head: bytes) -> str:
    if b"\0" in head:
        for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
            nulls = head[start::2].count(0)
            if nulls > 0.7 * len(head[start::2]) and nulls > 5 * head[1 - start :: 2].count(0):
                return name
        raise DatasetError(
            f"{path}: is a binary file of an unknown format: import reads CSV, TSV, JSON lines, "
            "Parquet, Excel and product feeds"
        )
    parts = [head]
    if not draft.packed:
        size = path.stat().st_size
        with path.open("rb") as file:
            for number in range(1, 17 if size > 2 * len(head) else 0):
                file.seek(size * number // 17)
                parts.append(file.read(_BLOCK))
    if all(_is_utf8(part) for part in parts):
        return "utf-8"
    return _legacy(b"".join(parts))


def _legacy(text: bytes) -> str:
    """Tell Chinese text, whose bytes above 127 come in pairs, from European text."""
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", text)]
    paired = sum(run for run in runs if run % 2 == 0)
    return "gb18030" if paired > 0.8 * sum(runs) else "cp1252"


def _is_utf8(part: bytes) -> bool:
    # The part may begin and end within a character, which takes four bytes at most.
    begin = next((at for at in range(min(4, len(part))) if part[at] & 0xC0 != 0x80), 0)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(part[begin:])
    except UnicodeDecodeError:
        return False
    return True


def _codec(encoding: str, utf_16: str) -> str:
    """Return the name of an encoding whose lines can be split as bytes or code units."""
    try:
        name = codecs.lookup(encoding).name
        name = {"utf-16": utf_16, "utf-8-sig": "utf-8"}.get(name, name)
        end = "\n".encode(name)
        end.decode(name, "replace")  # as lines are read; some codecs cannot
        if end in (b"\n", b"\n\0", b"\0\n"):
            return name
    except (LookupError, ValueError):  # ValueError: a name with NUL, or no codec of texts
        pass
    raise ConfigError(
        f"--encoding {encoding!r} is unknown: give utf-8, utf-16, windows-1252, gb18030 or another "
        "encoding of Python"
    )


def _even(offset: int) -> int:
    return offset - offset % 2  # UTF-16 has two bytes a letter
