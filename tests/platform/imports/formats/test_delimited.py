"""CSV and TSV as programs and people write them."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.imports.support import write

from tactful.errors import ConfigError, DatasetError
from tactful.imports.formats.delimited import DelimitedReader
from tactful.imports.formats.rows import ChangedFile, Place
from tactful.imports.formats.text_file import open_text


def opened(path: Path, encoding: str | None = None) -> DelimitedReader:
    return DelimitedReader(open_text(path, encoding))


def table(path: Path, encoding: str | None = None) -> tuple[list[str], list[list[str]]]:
    reader = opened(path, encoding)
    batches = reader.rows(Place(), 2)
    rows = [list(row) for rows in batches for row in zip(*rows.columns, strict=True)]
    return reader.columns, rows


EXPECTED = (["user", "item name"], [["ada", "Tee, grün"], ["bob", 'a "b"\nc']])
BODY = 'user,item name\r\nada,"Tee, grün"\r\nbob,"a ""b""\nc"\r\n'


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (BODY, "utf-8"),
        (BODY, "utf-8-sig"),
        (BODY, "utf-16"),
        ("\ufeff" + BODY, "utf-16-be"),
        (BODY, "utf-16-le"),
        (BODY, "cp1252"),
        (BODY.replace("\r\n", "\n"), "utf-8"),
        ("sep=,\n" + BODY, "utf-8"),
        ("Export of today\n\n" + BODY, "utf-8"),
        (
            BODY.replace('","', "\t")
            .replace("user,", "user\t")
            .replace("ada,", "ada\t")
            .replace("bob,", "bob\t"),
            "utf-8",
        ),
        (BODY.replace("user,", "user;").replace("ada,", "ada;").replace("bob,", "bob;"), "utf-8"),
    ],
)
def test_encodings_delimiters_and_line_ends_are_found(
    text: str, encoding: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "t.csv", text, encoding)
    assert table(path) == EXPECTED
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert table(tmp_path / "t.csv.gz") == EXPECTED


def test_old_line_ends_of_the_mac(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "user,item\rada,tea\rbob,cup\r")
    assert table(path) == (["user", "item"], [["ada", "tea"], ["bob", "cup"]])


def test_chinese_text_is_told_from_european(tmp_path: Path) -> None:
    chinese = write(tmp_path / "c.csv", "用户,商品\n张三,茶叶\n李四,杯子\n", "gb18030")
    assert table(chinese) == (["用户", "商品"], [["张三", "茶叶"], ["李四", "杯子"]])
    european = write(tmp_path / "e.csv", "Käufer,Größe\nMüller,Maß\n", "cp1252")
    assert table(european) == (["Käufer", "Größe"], [["Müller", "Maß"]])
    assert "Windows-1252" in opened(european).about


@pytest.mark.slow
def test_another_encoding_behind_the_sample_is_said_with_its_line(tmp_path: Path) -> None:
    lines = "".join(f"u{number},tea\n" for number in range(300_000))
    path = write(tmp_path / "t.csv", f"user,item\n{lines}")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size * 95 // 100)
        file.write(b"\xfc")
    reader = DelimitedReader(open_text(path, "utf-8"))
    with pytest.raises(DatasetError, match=r"t.csv:28\d{4}: is not UTF-8.*--encoding"):
        for _ in reader.rows(Place(), 500):
            pass


def test_short_rows_are_filled_and_long_ones_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b,c\n1,2,3\n4\n5,6,7,\n\n8,9,10,11\n12,13,14\n")
    (rows,) = opened(path).rows(Place(), 100)
    assert [*zip(*rows.columns, strict=True)] == [
        ("1", "2", "3"),
        ("4", "", ""),
        ("5", "6", "7"),
        ("12", "13", "14"),
    ]
    assert [*rows.numbers] == [2, 3, 4, 7]
    assert [(it.row, it.code) for it in rows.rejected] == [(6, "wrong_length")]


def test_numbers_are_the_lines_where_rows_begin(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'Title\na,b\n1,"x\ny"\n\n2,z\n')
    numbers = [number for rows in opened(path).rows(Place(), 1) for number in rows.numbers]
    assert numbers == [3, 6]


def test_a_quote_that_never_ends_is_said(tmp_path: Path) -> None:
    text = "a,b\n1,2\n" + '3,"x\n' + "4,5\n" * 60_000
    with pytest.raises(DatasetError, match="quote opened and not closed"):
        for _ in opened(write(tmp_path / "t.csv", text)).rows(Place(), 500):
            pass


def test_quotes_mean_nothing_in_tables_with_tabs_that_do_not_close_them(tmp_path: Path) -> None:
    text = 'id\ttitle\tprice\n1\t"Best tea\t3\n2\t12" plate\t4\n3\tcup\t5\n'
    columns, rows = table(write(tmp_path / "t.tsv", text))
    assert rows[0] == ["1", '"Best tea', "3"]
    assert (columns, len(rows)) == (["id", "title", "price"], 3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("196\t242\t3\t881250949\n186\t302\t3\t891717742\n", "no header.*--columns"),
    ],
)
def test_files_without_header_are_refused(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=problem):
        opened(write(tmp_path / "t.csv", text))


def test_names_of_columns_can_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "196\t242\t3\n186\t302\t3\n")
    reader = DelimitedReader(open_text(path, None), names=("user", "item", "rating"))
    (rows,) = reader.rows(Place(), 10)
    assert (reader.columns, rows.columns[0]) == (["user", "item", "rating"], ("196", "186"))
    with pytest.raises(ConfigError, match=r"2 names.*3 columns"):
        DelimitedReader(open_text(path, None), names=("user", "item"))


def test_colons_of_movie_lens(tmp_path: Path) -> None:
    path = write(tmp_path / "ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n")
    reader = DelimitedReader(open_text(path, None), names=("user", "item", "rating", "time"))
    (rows,) = reader.rows(Place(), 10)
    assert [*zip(*rows.columns, strict=True)][1] == ("1", "661", "3", "978302109")


def test_spaces_behind_delimiters_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", '"user id" , "item, id"\n ada, "tea, green"\n')
    assert table(path) == (["user id", "item, id"], [["ada", "tea, green"]])


def test_repeated_and_empty_names(tmp_path: Path) -> None:
    reader = opened(write(tmp_path / "t.csv", ",price,price\n0,1,2\n"))
    assert reader.columns == ["", "price", "price.2"]


def test_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(bytes(range(256)) * 10)
    with pytest.raises(DatasetError, match="binary file"):
        opened(tmp_path / "t.csv")
    with pytest.raises(ConfigError, match="--encoding 'utf-9' is unknown"):
        opened(tmp_path / "t.csv", "utf-9")
    with pytest.raises(ConfigError, match="--encoding 'base64' is unknown"):
        opened(tmp_path / "t.csv", "base64")


def test_a_cut_gzip_file_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(b"user,item\n" + b"".join(b"u%d,tea\n" % n for n in range(9_999)))
    (tmp_path / "t.csv.gz").write_bytes(whole[:-20])
    with pytest.raises(EOFError):
        opened(tmp_path / "t.csv.gz")


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), max_size=8)
rows_of = st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=40)


@given(rows_of, st.sampled_from([",", ";", "\t", "|"]), st.integers(1, 7), st.data())
def test_resuming_anywhere_yields_the_rest(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    delimiter: str,
    count: int,
    data: st.DataObject,
) -> None:
    """Rows written by the standard library are read as they were, from each place on."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(["first", "second", "third"])
    writer.writerows(rows)
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(text.getvalue().encode())
    reader = DelimitedReader(open_text(path, "utf-8"), delimiter)
    batches = list(reader.rows(Place(), count))
    found = [row for batch in batches for row in zip(*batch.columns, strict=True)]
    assert found == rows
    batch = data.draw(st.integers(0, len(batches) - 1))
    seen = sum(len(it.numbers) for it in batches[: batch + 1])
    with path.open("ab") as file:  # the file may grow
        file.write(f'"x"{delimiter}"y"{delimiter}"z"\n'.encode())
    rest = list(reader.rows(batches[batch].end, count))
    again = [row for batch in rest for row in zip(*batch.columns, strict=True)]
    assert again == [*rows[seen:], ("x", "y", "z")]


def test_a_changed_beginning_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\n1,2\n3,4\n")
    first, *_ = opened(path).rows(Place(), 1)
    write(path, "a,b\n1,9\n3,4\n")
    with pytest.raises(ChangedFile, match="first 2 lines"):
        next(opened(path).rows(first.end, 1))
    write(path, "a,b\n")
    with pytest.raises(ChangedFile):
        next(DelimitedReader(open_text(path, None)).rows(first.end, 1))
