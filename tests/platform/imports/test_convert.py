"""Rows become elements that the server accepts, and the same ones in every run."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.imports.support import converted, without_ids, write

from tactful.imports.cells import LONGEST, read_flag
from tactful_streaming.contract.decode_requests import EVENT_TYPES, decode_events, decode_items

NOW = 1_900_000_000_000
BERLIN = ZoneInfo("Europe/Berlin")

_ids = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=12).filter(
    lambda text: text not in ("NULL", "null", "None", "nan", "NaN", "NaT", "N/A", "n/a")
)
_ids = _ids.filter(lambda text: not text.startswith(("device:", "#N/A", "<NA>", "\\N")))
_times = st.datetimes(dt.datetime(2001, 1, 1), dt.datetime(2029, 1, 1)).map(
    lambda at: at.replace(microsecond=0)
)
_events = st.fixed_dictionaries(
    {
        "user": _ids,
        "item": _ids,
        "at": _times,
        "what": st.sampled_from(["view", "addtocart", "transaction"]),
        "price": st.none() | st.decimals(0, 10_000, places=2).map(float),
        "quantity": st.none() | st.integers(1, 99),
    }
)
_TYPES = {"view": "view", "addtocart": "add_to_cart", "transaction": "purchase"}


def expected(row: dict[str, Any]) -> dict[str, Any]:
    at = row["at"].replace(tzinfo=BERLIN)
    properties = {name: row[name] for name in ("price", "quantity") if row[name] is not None}
    event = {"user_id": row["user"], "item_id": row["item"], "type": _TYPES[row["what"]]}
    event |= {"timestamp": int(at.timestamp() * 1000)}
    return event | ({"properties": properties} if properties else {})


@given(rows=st.lists(_events, min_size=1, max_size=30), comma=st.booleans())
def test_written_rows_are_the_events_that_they_were(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], comma: bool
) -> None:
    """As CSV in the German or the English way, and as Parquet with real types."""
    folder = tmp_path_factory.mktemp("rows")
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";" if comma else ",")
    writer.writerow(["Kundennummer", "Artikelnr", "Datum", "Aktion", "Preis", "Menge"])
    for row in rows:
        price = "" if row["price"] is None else f"{row['price']:.2f}"
        at = row["at"].strftime("%d.%m.%Y %H:%M:%S" if comma else "%Y-%m-%d %H:%M:%S")
        price = price.replace(".", ",") if comma else price
        quantity = "" if row["quantity"] is None else row["quantity"]
        writer.writerow([row["user"], row["item"], at, row["what"], price, quantity])
    write(folder / "t.csv", text.getvalue())
    options: dict[str, Any] = {
        "kind": "events",
        "time_zone": "Europe/Berlin",
        "order": "file",
        "encoding": "utf-8",
        "decimal": "comma" if comma else "point",
        "delimiter": ";" if comma else ",",
        "maps": (
            "user=Kundennummer",
            "item=Artikelnr",
            "type=Aktion",
            "price=Preis",
            "quantity=Menge",
        ),
    }
    elements, rejected = converted(folder / "t.csv", count=7, **options)
    assert without_ids(elements) == [expected(row) for row in rows]
    assert rejected == []
    pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
    again, _ = converted(
        folder / "t.parquet",
        kind="events",
        time_zone="Europe/Berlin",
        order="file",
        maps=("user=user", "item=item", "type=what", "time=at", "price=price", "quantity=quantity"),
    )
    assert without_ids(again) == without_ids(elements)
    accepted, wrong = decode_events(json.dumps(elements).encode(), now=NOW)
    assert (len(accepted), wrong) == (len(rows), [])


def test_the_same_row_is_the_same_event_in_every_run(tmp_path: Path) -> None:
    text = "user,item,type,time\nada,tea,view,2024-01-31\nada,tea,view,2024-01-31\n"
    first, _ = converted(write(tmp_path / "a.csv", text))
    longer, _ = converted(write(tmp_path / "b.csv", text + "bob,cup,view,2024-02-01\n"), count=1)
    ids = [it["event_id"] for it in first]
    assert len({*ids}) == 2, "equal rows are two events"
    assert ids == [it["event_id"] for it in longer][:2]
    again, _ = converted(tmp_path / "a.csv", maps=("type=type", "user=user"))
    assert ids == [it["event_id"] for it in again], "however the mapping came about"
    other, _ = converted(tmp_path / "a.csv", time_zone="Europe/Berlin")
    assert not {*ids} & {it["event_id"] for it in other}, "another time is another event"


def test_ids_of_the_file_are_kept(tmp_path: Path) -> None:
    text = "event_id,user,type,time\ne-1,ada,view,2024-01-31\n,bob,view,2024-01-31\n"
    elements, _ = converted(write(tmp_path / "t.csv", text))
    assert elements[0]["event_id"] == "e-1"
    assert len(elements[1]["event_id"]) == 32


def test_rows_that_are_no_events_are_refused_with_their_reason(tmp_path: Path) -> None:
    rows = [
        "ada,tea,view,2024-01-31,3",
        ",tea,view,2024-01-31,3",
        "ada,tea,view,soon,3",
        "ada,tea,view,,3",
        "ada,tea,,2024-01-31,3",
        "ada,tea,view,2024-01-31,cheap",
        "NULL,tea,view,2024-02-30,3",
        "bob,,view,2024-01-31,NaN",
    ] + ["ada,tea,view,2024-01-31,3"] * 80
    path = write(tmp_path / "t.csv", "user,item,type,time,price\n" + "\n".join(rows))
    elements, rejected = converted(path, count=3)
    assert len(elements) == 82
    assert [(it.row, it.code) for it in rejected] == [
        (3, "no_subject"),
        (4, "bad_timestamp"),
        (5, "missing_field"),
        (6, "missing_field"),
        (7, "bad_number"),
        (8, "bad_timestamp"),
    ]
    assert "price: 'cheap': is no number" in rejected[4].message
    assert without_ids(elements)[1] == {
        "user_id": "bob",
        "type": "view",
        "timestamp": 1706659200000,
    }


@pytest.mark.slow
def test_words_behind_the_sample_are_refused_not_guessed(tmp_path: Path) -> None:
    rows = ["ada,tea,view,2024-01-31"] * 60_000 + ["ada,tea,zap,2024-01-31"]
    middle = 50_000  # between the blocks of the sample
    rows.insert(middle, "ada,tea,odd,2024-01-31")
    path = write(tmp_path / "t.csv", "user,item,type,time\n" + "\n".join(rows))
    _, rejected = converted(path, count=1000, types=("zap=x.zap",))
    assert [(it.row, it.code) for it in rejected] == [(middle + 2, "unknown_type")]


def test_long_texts_are_cut_where_the_server_would_refuse_them(tmp_path: Path) -> None:
    text = "x" * 5_000
    path = write(tmp_path / "t.csv", f"sku,title,category,body\ntea,{text},{text},{text}\n")
    elements, _ = converted(path)
    (item,) = elements
    sizes = len(item["title"]), len(item["category"]), len(item["properties"]["body"])
    assert sizes == (LONGEST["title"], LONGEST["category"], 2048)
    _, rejected = decode_items(json.dumps(elements).encode(), now=NOW)
    assert rejected == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("in stock", True),
        ("IN_STOCK", True),
        ("https://schema.org/InStock", True),
        ("out of stock", False),
        ("https://schema.org/OutOfStock", False),
        ("preorder", True),
        ("ja", True),
        ("Nein", False),
        ("有货", True),
        ("TRUE", True),
        ("0", False),
        ("12", True),
        (3, True),
        (0, False),
        (-1, False),
        (True, True),
        ("sold out", False),
    ],
)
def test_availability(value: Any, expected: bool) -> None:
    assert read_flag(value) is expected


def test_every_type_of_the_contract_is_its_own_word(tmp_path: Path) -> None:
    rows = "".join(f"ada,tea,{type_},2024-01-31\n" for type_ in sorted(EVENT_TYPES))
    elements, _ = converted(write(tmp_path / "t.csv", f"user,item,type,time\n{rows}"))
    assert [it["type"] for it in elements] == sorted(EVENT_TYPES)
