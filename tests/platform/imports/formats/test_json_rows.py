"""JSON lines and arrays as rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.platform.imports.support import write

from tactful.errors import DatasetError
from tactful.imports.formats.json_rows import JsonArrayReader, JsonLinesReader
from tactful.imports.formats.rows import ChangedFile, Place, Reader
from tactful.imports.formats.text_file import open_text


def records(reader: Reader, count: int = 3) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in zip(reader.columns, row, strict=True) if value is not None}
        for rows in reader.rows(Place(), count)
        for row in zip(*rows.columns, strict=True)
    ]


def test_objects_become_columns_with_a_dot(tmp_path: Path) -> None:
    lines = [{"user": {"id": 1, "geo": {"city": "Ulm"}}, "tags": ["a", "b"]}, {"late": True}]
    path = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, lines)))
    found = records(JsonLinesReader(open_text(path, None)))
    assert found == [{"user.id": 1, "user.geo.city": "Ulm", "tags": ["a", "b"]}, {"late": True}]


def test_a_list_of_objects_becomes_rows(tmp_path: Path) -> None:
    order = {"order": 7, "lines": [{"sku": "tea", "n": 1}, {"sku": "cup"}], "at": 3}
    path = write(tmp_path / "t.jsonl", f"{json.dumps(order)}\n{json.dumps({'order': 8})}\n")
    reader = JsonLinesReader(open_text(path, None))
    assert records(reader) == [
        {"order": 7, "at": 3, "sku": "tea", "n": 1},
        {"order": 7, "at": 3, "sku": "cup"},
        {"order": 8},
    ]
    (rows,) = reader.rows(Place(), 5)
    assert [*rows.numbers] == [1, 1, 2]


def test_damaged_lines_are_refused_with_their_number(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", '{"a": 1}\n\n{"a": \n[1]\n{"a": 2}\n{"a": 3}\n')
    (rows,) = JsonLinesReader(open_text(path, None)).rows(Place(), 100)
    assert rows.columns == [[1, 2, 3]]
    assert [*rows.numbers] == [1, 5, 6]
    assert [(it.row, it.code) for it in rows.rejected] == [(3, "not_json"), (4, "not_json")]


def test_a_file_that_is_mostly_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Import reads one object a line"):
        JsonLinesReader(open_text(write(tmp_path / "t.jsonl", '{"a": 1}\nx\ny\n'), None))
    with pytest.raises(DatasetError, match="is empty"):
        JsonLinesReader(open_text(write(tmp_path / "t.jsonl", "\n"), None))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_arrays_are_read_object_by_object(
    indent: int | None, encoding: str, tmp_path: Path
) -> None:
    # Longer than what is read at once, with brackets and escapes in texts.
    expected = [{"n": number, "text": f'"}}],[{{ü\\{number}' * 20} for number in range(3_000)]
    text = json.dumps(expected, indent=indent, ensure_ascii=False)
    reader = JsonArrayReader(open_text(write(tmp_path / "t.json", text, encoding), None))
    assert records(reader, 500) == expected
    last = list(reader.rows(Place(), 500))[2].end
    assert sum(len(rows.numbers) for rows in reader.rows(last, 500)) == 1_500
    write(tmp_path / "t.json", text + "\n", encoding)
    with pytest.raises(ChangedFile):
        next(reader.rows(last, 500))


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a": ', '[{"a": 1} {"a": nope}]', '[{"a": 1}, 7]'])
def test_damaged_arrays_end_with_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"damaged or cut|element 2 is no object"):
        records(JsonArrayReader(open_text(write(tmp_path / "t.json", text), None)))


def test_an_empty_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is empty"):
        JsonArrayReader(open_text(write(tmp_path / "t.json", " [ ] "), None))
