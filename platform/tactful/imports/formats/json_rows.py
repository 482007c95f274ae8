"""JSON lines and JSON arrays of objects.

Objects in an object become columns with a dot: ``{"a": {"b": 1}}`` has the column ``a.b``. A list
of objects becomes rows: an order with two lines is two rows, each with the fields of the order.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

import msgspec

from tactful.errors import DatasetError
from tactful.imports.formats.rows import (
    SAMPLED_ROWS,
    Column,
    Place,
    Reader,
    RejectedRow,
    Rows,
    WholeFileReader,
    as_columns,
    flattened,
    names_of,
)
from tactful.imports.formats.text_file import LineReader, TextFile
from tactful_privacy.decoding import DECODE_ERRORS

_SAMPLED_OBJECTS = 5_000
_CHUNK = 256 * 1024
_MAX_OBJECT = 16 * 1024 * 1024  # characters

_GAP = re.compile(r"[ \t\r\n,]*")
_JSON_ERRORS = (ValueError, *DECODE_ERRORS)

_decoder = msgspec.json.Decoder(dict[str, Any])


class JsonLinesReader(Reader):
    """Reader of one JSON object a line. Lines may be appended to a file that was sent."""

    grows: ClassVar[bool] = True
    unit = "B"

    def __init__(self, text: TextFile) -> None:
        """Find the names of all fields.

        Raises:
            DatasetError: if the file is empty, or most lines are no JSON objects.
        """
        super().__init__(text.path, f"JSON lines, {text.about}")
        self.text = text
        self.total = None if text.packed else text.path.stat().st_size
        lines = [line for lines in text.samples() for line in lines if line.strip()]
        if not lines:
            raise DatasetError(f"{text.path}: is empty")
        self.sampled: list[dict[str, Any]] = []
        for line in lines[:_SAMPLED_OBJECTS]:
            try:
                self.sampled.append(_decoder.decode(line))
            except DECODE_ERRORS:
                continue
        if len(self.sampled) < len(lines[:_SAMPLED_OBJECTS]) / 2:
            raise DatasetError(
                f"{text.path}: most lines are no JSON objects. Import reads one object a line, "
                "or an array of objects"
            )
        self._shape = _Shape(self.sampled)
        self.columns = self._shape.names

    def sample(self) -> list[Column]:
        """Return the objects of the sample as rows."""
        return self._shape.columns(self.sampled)

    def rows(self, start: Place, count: int) -> Iterator[Rows]:
        """Read the lines behind a place."""
        for lines, numbers, end in self.lines(start, count):
            records, kept, rejected = [], [], []
            for number, line in zip(numbers, lines, strict=True):
                try:
                    records.append(_decoder.decode(line))
                    kept.append(number)
                except DECODE_ERRORS as error:
                    rejected.append(RejectedRow(number, "not_json", f"no JSON object: {error}"))
            yield self._shape.rows(records, kept, end, rejected)

    def lines(self, start: Place, count: int) -> Iterator[tuple[list[bytes], list[int], Place]]:
        """Yield lines that are not blank, with their numbers and the place behind them."""
        reader = LineReader(self.text, start)
        try:
            passed = reader.place().rows
            if self.text.encoding == "utf-8":
                raw = reader.raw()
            else:
                raw = (line.encode() for line in reader)
            while block := list(islice(raw, count)):
                lines, numbers = [], []
                for number, line in enumerate(block, passed + 1):
                    if line.strip():
                        lines.append(line)
                        numbers.append(number)
                passed += len(block)
                yield lines, numbers, reader.place()
        finally:
            reader.close()


class JsonArrayReader(WholeFileReader):
    """Reader of a JSON array of objects."""

    def __init__(self, text: TextFile) -> None:
        """Find the names of the fields in the first objects.

        Raises:
            DatasetError: if the file is empty or damaged.
        """
        super().__init__(text.path, f"JSON array, {text.about}")
        self._text = text
        self._sampled = list(islice(self._objects(), _SAMPLED_OBJECTS))
        if not self._sampled:
            raise DatasetError(f"{text.path}: the array is empty")
        self._shape = _Shape(self._sampled)
        self.columns = self._shape.names

    def sample(self) -> list[Column]:
        """Return the first objects as rows."""
        return self._shape.columns(self._sampled)

    def _read(self, skip: int, count: int) -> Iterator[Rows]:
        objects = islice(self._objects(), skip, None)
        number = skip
        while block := list(islice(objects, count)):
            numbers = range(number + 1, number + len(block) + 1)
            number += len(block)
            yield self._shape.rows(block, numbers, Place(number), [])

    def _objects(self) -> Iterator[dict[str, Any]]:
        """Decode one object after the other, without reading the whole file."""
        decoder = json.JSONDecoder()
        with self._text.open() as file:
            file.seek(self._text.mark)
            decode = codecs.getincrementaldecoder(self._text.encoding)("replace").decode
            text = decode(file.read(_CHUNK)).lstrip()
            at, ended, number = 1, False, 0  # behind the bracket
            while not text.startswith("]", at := _behind_gap(text, at)):
                try:
                    value, at = decoder.raw_decode(text, at)
                except _JSON_ERRORS as error:
                    if ended or len(text) - at > _MAX_OBJECT:
                        raise DatasetError(
                            f"{self.path}: object {number + 1} is damaged or cut: {error}"
                        ) from error
                    chunk = file.read(_CHUNK)
                    ended = not chunk
                    text, at = text[at:] + decode(chunk, ended), 0
                    continue
                number += 1
                if not isinstance(value, dict):
                    raise DatasetError(f"{self.path}: element {number} is no object")
                yield value


class _Shape:
    """Names of the columns of objects, and the list that is unfolded."""

    def __init__(self, sampled: Sequence[Mapping[str, Any]]) -> None:
        self._unfolded = _list_of_objects(sampled)
        records = [record for value in sampled for record in self._records(value)]
        self.names = names_of(records[:SAMPLED_ROWS])

    def columns(self, values: Sequence[Mapping[str, Any]]) -> list[Column]:
        records = [record for value in values for record in self._records(value)]
        return as_columns(records[:SAMPLED_ROWS], self.names)

    def rows(
        self,
        values: Sequence[Mapping[str, Any]],
        numbers: Sequence[int],
        end: Place,
        rejected: Sequence[RejectedRow],
    ) -> Rows:
        if self._unfolded is None:
            records = [flattened(value) for value in values]
        else:
            pairs = [
                (number, record)
                for number, value in zip(numbers, values, strict=True)
                for record in self._records(value)
            ]
            numbers = [number for number, _ in pairs]
            records = [record for _, record in pairs]
        return Rows(as_columns(records, self.names), numbers, end, rejected)

    def _records(self, value: Mapping[str, Any]) -> list[dict[str, Any]]:
        name = self._unfolded
        inner = value.get(name) if name is not None else None
        if name is None or not isinstance(inner, list):
            return [flattened(value)]
        outer = flattened({key: item for key, item in value.items() if key != name})
        return [outer | flattened(item) for item in inner if isinstance(item, dict)]


def _behind_gap(text: str, at: int) -> int:
    """Return the place of the next element, behind white space and commas."""
    match = _GAP.match(text, at)
    return at if match is None else match.end()


def _list_of_objects(sampled: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the only field that holds lists of objects, if there is one."""
    names = {
        name
        for value in sampled
        for name, inner in value.items()
        if isinstance(inner, list) and inner and all(isinstance(item, dict) for item in inner)
    }
    return names.pop() if len(names) == 1 else None
