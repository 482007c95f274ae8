"""Files of many origins, understood by their columns."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.platform.imports.support import converted, mapping, understood, without_ids, write

from tactful.errors import DatasetError, TactfulError
from tactful.imports.convert import Converter
from tactful.imports.formats.rows import Place

ONLINE_RETAIL = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,85123A,WHITE HANGING HEART,6,12/31/2010 8:26,2.55,17850.0,United Kingdom
C536379,D,Discount,-1,12/31/2010 9:41,27.5,,United Kingdom
"""
RETAIL_ROCKET = """timestamp,visitorid,event,itemid,transactionid
1433221332117,257597,view,355908,
1433221999827,257597,addtocart,355908,
1433222276276,257597,transaction,355908,4000
"""
MOVIE_LENS = "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,1029,3.0,1260759179\n"
COSMETICS = """event_time,event_type,product_id,category_id,category_code,price,user_id,user_session
2019-10-01 00:00:00 UTC,cart,5773203,1487580005134238553,,2.62,463240011,26dd6e6e
2019-10-01 00:00:03 UTC,remove_from_cart,5773353,1487580005134238553,a.b,2.62,463240011,26dd6e6e
"""
AMAZON = "reviewerID,asin,overall,unixReviewTime\nA2SUAM1J3GNN3B,0000013714,5.0,1353024000\n"
GERMAN = (
    "Kundennummer;Artikelnr;Bezeichnung;Menge;Einzelpreis;Bestelldatum;Bestellnr\n"
    "1001;A-7;Tee, grün;2;1.012,50 €;31.12.2024;B1\n"
)
CHINESE = (
    "用户ID,商品ID,行为类型,时间\n1,11,浏览,2017-11-25 10:00:00\n1,11,购买,2017-11-25 11:00:00\n"
)
DATE_AND_TIME = "date,time,customer,article_id,action\n2024-01-31,08:05,ada,tea,click\n"
COMPLETE_JOURNEY = (
    "household_id,basket_id,product_id,quantity,sales_value,transaction_timestamp\n"
    "900,31198570044,1095275,1,0.5,2017-01-01 11:53:26\n"
)

EVENTS: list[tuple[str, dict[str, str]]] = [
    (
        ONLINE_RETAIL,
        {
            "user_id": "CustomerID",
            "item_id": "StockCode",
            "timestamp": "InvoiceDate",
            "session_id": "InvoiceNo",
            "properties.price": "UnitPrice",
            "properties.quantity": "Quantity",
            "type": "=purchase",
        },
    ),
    (
        RETAIL_ROCKET,
        {"device_id": "visitorid", "item_id": "itemid", "timestamp": "timestamp", "type": "event"},
    ),
    (
        MOVIE_LENS,
        {
            "user_id": "userId",
            "item_id": "movieId",
            "timestamp": "timestamp",
            "properties.rating": "rating",
            "type": "=rating",
        },
    ),
    (
        COSMETICS,
        {
            "user_id": "user_id",
            "item_id": "product_id",
            "timestamp": "event_time",
            "type": "event_type",
            "session_id": "user_session",
            "properties.price": "price",
            "properties.category": "category_code",
        },
    ),
    (
        AMAZON,
        {
            "user_id": "reviewerID",
            "item_id": "asin",
            "timestamp": "unixReviewTime",
            "properties.rating": "overall",
            "type": "=rating",
        },
    ),
    (
        GERMAN,
        {
            "user_id": "Kundennummer",
            "item_id": "Artikelnr",
            "timestamp": "Bestelldatum",
            "session_id": "Bestellnr",
            "properties.price": "Einzelpreis",
            "properties.quantity": "Menge",
            "properties.currency": "Einzelpreis",
            "type": "=purchase",
        },
    ),
    (
        CHINESE,
        {"user_id": "用户ID", "item_id": "商品ID", "type": "行为类型", "timestamp": "时间"},
    ),
    (
        DATE_AND_TIME,
        {
            "user_id": "customer",
            "item_id": "article_id",
            "type": "action",
            "timestamp": "date+time",
        },
    ),
    (
        COMPLETE_JOURNEY,
        {
            "user_id": "household_id",
            "item_id": "product_id",
            "session_id": "basket_id",
            "timestamp": "transaction_timestamp",
            "properties.quantity": "quantity",
            "type": "=purchase",
        },
    ),
]


@pytest.mark.parametrize(("text", "expected"), EVENTS)
def test_events_of_many_origins(text: str, expected: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", text)
    assert understood(path).guess.plan.kind == "events"
    assert mapping(path) == expected
    elements, rejected = converted(path)
    assert len(elements) == len(text.splitlines()) - 1
    assert rejected == []


def test_values_of_a_german_file(tmp_path: Path) -> None:
    (event,), _ = converted(write(tmp_path / "t.csv", GERMAN), time_zone="Europe/Berlin")
    assert without_ids([event]) == [
        {
            "user_id": "1001",
            "item_id": "A-7",
            "session_id": "B1",
            "type": "purchase",
            "timestamp": 1735599600000,
            "properties": {"price": 1012.5, "quantity": 2, "currency": "EUR"},
        }
    ]


def test_guests_and_returns_of_invoices(tmp_path: Path) -> None:
    elements, _ = converted(write(tmp_path / "t.csv", ONLINE_RETAIL))
    bought, returned = without_ids(elements)
    assert (bought["user_id"], bought["session_id"], bought["type"]) == (
        "17850",
        "536365",
        "purchase",
    )
    assert "device_id" not in bought
    assert (returned["device_id"], returned["type"]) == ("C536379", "return")
    assert "user_id" not in returned
    assert returned["properties"]["quantity"] == 1


ITEMS = "sku,name,type,price,stock,brand,colour\n007,Tea,drinks,3.5,4,Brown,red\n8,Cup,,8,0,,\n"
USERS = "customer_id,email,first_name,age,gender,city,notes\n7,a@b.example,Ada,42,f,Ulm,x\n"


def test_items_with_all_their_properties(tmp_path: Path) -> None:
    elements, _ = converted(write(tmp_path / "t.csv", ITEMS))
    assert elements == [
        {
            "item_id": "007",
            "title": "Tea",
            "category": "drinks",
            "price": 3.5,
            "available": True,
            "properties": {"brand": "Brown", "colour": "red"},
        },
        {"item_id": "8", "title": "Cup", "price": 8, "available": False},
    ]


def test_users_without_what_identifies_a_person(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", USERS)
    elements, _ = converted(path)
    assert elements == [{"user_id": "7", "properties": {"age": 42, "gender": "f", "city": "Ulm"}}]
    assert understood(path).guess.left_out == ["email", "first_name", "notes"]


def test_items_of_a_file_of_sales_are_sent_when_they_change(tmp_path: Path) -> None:
    rows = "\n".join(f"{n},ada,tea,Assam,{3 if n < 4 else 4},1,1.{n}.2024" for n in range(1, 7))
    path = write(tmp_path / "t.csv", f"order,user,sku,name,price,qty,date\n{rows}\n")
    elements, _ = converted(path, kind="items", date_order="dmy")
    assert elements == [
        {"item_id": "tea", "title": "Assam", "price": 3},
        {"item_id": "tea", "title": "Assam", "price": 4},
    ]
    assert any("--kind items" in note for note in understood(path, date_order="dmy").guess.notes)


def test_orders_are_no_items(tmp_path: Path) -> None:
    """A till's file: its ids are those of orders, as each stands beside several names."""
    text = "id,date,time,name,type,price\n" + "".join(
        f"2015-{number // 2},2015-01-01,11:{number:02}:36,pizza {number % 3},classic,{number % 3}\n"
        for number in range(40)
    )
    path = write(tmp_path / "till.csv", text)
    with pytest.raises(DatasetError, match=r"several values of name each.*--map session=id"):
        understood(path)
    asked = {"maps": ("session=id", "item=name"), "constants": ("type=purchase",)}
    assert mapping(path, kind="events", **asked)["timestamp"] == "date+time"
    notes = understood(path, kind="events", **asked).guess.notes
    assert "--kind items --map item=name sends" in " ".join(notes)
    assert mapping(path, kind="items")["item_id"] == "id"
    renamed = "id,name,price\n" + "".join(f"{n % 20},{n % 20} {n > 38},{n}\n" for n in range(40))
    path = write(tmp_path / "renamed.csv", renamed)
    assert understood(path).guess.plan.kind == "items", "a name was corrected"


def test_items_as_of_a_time(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "sku,title,updated_at\ntea,Tea,2024-01-31 10:00\n")
    (item,), _ = converted(path, time_zone="Europe/Berlin")
    assert item["timestamp"] == 1706691600000
    (item,), _ = converted(path, constants=("time=2024-01-31",), maps=("properties.as_of=title",))
    assert (item["timestamp"], item["properties"]["as_of"]) == (1706659200000, "Tea")


def test_options_come_before_guesses(tmp_path: Path) -> None:
    text = "wer,was,wann,wieviel,art,farbe\nada,tea,2024-01-31,2,gesehen,rot\n"
    path = write(tmp_path / "t.csv", f"{text}bob,cup,2024-02-01,1,weg,\n")
    maps = (
        "user=wer",
        "item=was",
        "time=wann",
        "type=art",
        "properties.colour=farbe",
        "quantity=wieviel",
    )
    elements, _ = converted(
        path, maps=maps, types=("weg=",), constants=("context.app=web", "properties.shop=7")
    )
    assert without_ids(elements) == [
        {
            "user_id": "ada",
            "item_id": "tea",
            "timestamp": 1706659200000,
            "type": "view",
            "context": {"app": "web"},
            "properties": {"colour": "rot", "quantity": 2, "shop": 7},
        }
    ]


def test_a_field_can_be_left_out_or_made_constant(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ONLINE_RETAIL)
    elements, _ = converted(
        path,
        maps=("price=", "session="),
        constants=("type=add_to_cart", "time=2024-01-31 10:00"),
        kind="events",
        time_zone="Europe/Berlin",
    )
    assert without_ids(elements)[0] == {
        "user_id": "17850",
        "item_id": "85123A",
        "type": "add_to_cart",
        "timestamp": 1706691600000,
        "properties": {"quantity": 6},
    }


def test_json_lines_with_seconds_and_with_several_events_each(tmp_path: Path) -> None:
    seconds = {"event_type": "click", "item_id": "A", "user_id": "u", "timestamp": 1630000000}
    (event,), _ = converted(write(tmp_path / "a.jsonl", json.dumps(seconds)))
    assert (event["type"], event["timestamp"]) == ("click", 1630000000000)
    session = {
        "session": 7,
        "events": [
            {"aid": 1, "ts": 1659304800025, "type": "clicks"},
            {"aid": 1, "ts": 1659304800025, "type": "clicks"},
            {"aid": 2, "ts": 1659304904511, "type": "orders"},
        ],
    }
    elements, _ = converted(write(tmp_path / "b.jsonl", json.dumps(session)))
    assert [(it["item_id"], it["type"], it["device_id"]) for it in elements] == [
        ("1", "click", "7"),
        ("1", "click", "7"),
        ("2", "purchase", "7"),
    ]
    assert len({it["event_id"] for it in elements}) == 3, "equal events of one line are two"


def test_lines_of_the_contract_are_sent_unchanged(tmp_path: Path) -> None:
    event = {"type": "view", "timestamp": 1630000000000, "user_id": "u", "item_id": "A"}
    path = write(tmp_path / "t.jsonl", f"{json.dumps(event)}\nnot json\n")
    assert understood(path).guess.plan.raw
    assert not understood(path, constants=("context.app=web",)).guess.plan.raw
    items = write(tmp_path / "i.jsonl", '{"item_id": "A", "title": "Tea"}\n')
    plan = understood(items).guess.plan
    assert (plan.raw, plan.kind) == (True, "items")


def test_lines_out_of_order_are_noted_and_can_be_sorted(tmp_path: Path) -> None:
    day = 86_400_000
    events = [
        {"type": "view", "timestamp": 1_700_000_000_000 - n * day, "user_id": "u"} for n in range(5)
    ]
    path = write(tmp_path / "t.jsonl", "".join(f"{json.dumps(event)}\n" for event in events))
    assert understood(path).guess.plan.raw
    assert understood(path).guess.notes == [
        "the lines are not in the order of time: --order time sorts them"
    ]
    assert understood(path, order="file").guess.notes == []
    assert understood(path, order="time").guess.plan.by_time


def test_a_property_of_numbers_may_hold_a_word_later(tmp_path: Path) -> None:
    rows = "".join(f"i{n},Shirt,{36 + n % 9},1.0\n" for n in range(3_000))
    path = write(tmp_path / "t.csv", f"sku,title,size,shelf\n{rows}")
    job = understood(path)
    write(path, f"sku,title,size,shelf\n{rows}last,Shirt,XL,A\n")
    convert = Converter(job.guess.plan, job.reader.columns, job.reader.types)
    (batch,) = understood(path).reader.rows(Place(), 5_000)
    found = convert(batch)
    assert json.loads(found.lines[0])["properties"] == {"size": 36, "shelf": 1}
    assert json.loads(found.lines[-1])["properties"] == {"size": "XL", "shelf": "A"}
    assert found.rejected == []


def test_words_that_say_nothing_of_availability_stay_a_property(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "sku,title,stock\na,Tea,Berlin\nb,Cup,Hamburg\n")
    elements, _ = converted(path)
    assert [it["properties"]["stock"] for it in elements] == ["Berlin", "Hamburg"]


def test_rows_out_of_order_are_sorted(tmp_path: Path) -> None:
    newest_first = MOVIE_LENS + "2,31,4,1260000000\n3,31,4,1250000000\n"
    path = write(tmp_path / "t.csv", newest_first)
    assert understood(path).guess.plan.by_time
    assert not understood(path, order="file").guess.plan.by_time
    assert not understood(write(tmp_path / "u.csv", MOVIE_LENS)).guess.plan.by_time


WRONG: list[tuple[str, dict[str, Any], str]] = [
    (ITEMS, {"kind": "events"}, "cannot be sent as events.*no column has the time"),
    (USERS, {"kind": "items"}, "no column has the id of the item"),
    (MOVIE_LENS, {"kind": "items"}, "no column describes the item"),
    (MOVIE_LENS, {"kind": "users"}, "no column is known to describe the user"),
    ("a,b\n1,2\n", {}, "cannot tell whether these are events, items, users.*a, b"),
    ("user,item,date\nada,tea,2024-01-31\n", {}, "no column has the type.*--set type=view"),
    (
        "user,item,date,event\nada,tea,2024-01-31,view\nada,tea,2024-01-31,zap\n",
        {},
        "words that are no type of events: zap.*--map-type 'zap=view'",
    ),
    ("user,item,rating,date\nada,tea,5,1/2/2024\n", {}, "date such as 1/2/2024.*--date-order"),
    (
        "user,item,rating,date\nada,tea,5,soon\n",
        {},
        "no column has the time of the event.*date has cells that are no times, such as 'soon'",
    ),
    ("user,item,date\n", {}, "header but no rows"),
    (
        "user,item,event,time\n1,2,1,1700000000\n1,2,3,1700000000\n",
        {},
        r"types for its words, as for event \(1, 3\): --map-type 1=view",
    ),
    (
        "Email,Lineitem sku,Lineitem quantity,Created at\na@b.example,tea,1,2024-01-31\n",
        {},
        "no column has the type of the event, no column names the user.*--map user=COLUMN",
    ),
    ("item_id\ntea\n", {"kind": "items"}, "no column describes the item"),
]


@pytest.mark.parametrize(("text", "options", "problem"), WRONG)
def test_a_file_that_cannot_be_sent_says_why(
    text: str, options: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=problem) as error:
        understood(write(tmp_path / "t.csv", text), **options)
    assert "t.csv" in str(error.value)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"maps": ("usr=CustomerID",)}, "events have no field 'usr' (did you mean 'user'?)"),
    ({"maps": ("user=CustomerId ID",)}, "no column 'CustomerId ID' (did you mean 'CustomerID'?)"),
    ({"maps": ("CustomerID",)}, "write TARGET=VALUE"),
    ({"maps": ("user=CustomerID", "user_id=Country")}, "user_id is given twice"),
    ({"maps": ("context=Country",)}, "no field 'context'"),
    ({"constants": ("type=purchse",)}, "no type of events (did you mean 'purchase'?)"),
    ({"constants": ("typ=purchase",)}, "did you mean 'type'?"),
    ({"types": ("order=purchse",)}, "did you mean 'purchase'?"),
    ({"types": ("order",)}, "write WORD=TYPE"),
    ({"time_zone": "Europe/Berln"}, "did you mean 'Europe/Berlin'?"),
    ({"encoding": "utf-9"}, "--encoding 'utf-9' is unknown"),
    ({"encoding": "idna"}, "--encoding 'idna' is unknown"),
    ({"encoding": "undefined"}, "--encoding 'undefined' is unknown"),
    ({"encoding": "utf-8\0"}, "--encoding 'utf-8\\x00' is unknown"),
    ({"sheet": "Sheet1"}, "--sheet has no effect"),
    ({"columns": ("a", "b")}, "2 names"),
    ({"format": "parquet"}, "no readable Parquet file"),
    ({"format": "excel"}, "no readable Excel file"),
    ({"format": "feed"}, "no well-formed XML"),
    ({"format": "json"}, "damaged or cut"),
    ({"format": "shopify"}, "no Shopify export"),
    ({"constants": ("time=soon",)}, "is no time such as"),
]


@pytest.mark.parametrize(("options", "problem"), MISTAKES)
def test_mistakes_in_options_are_said(
    options: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "t.csv", ONLINE_RETAIL)
    with pytest.raises(TactfulError, match=re.escape(problem)):
        converted(path, **options)


def test_options_without_effect_are_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", RETAIL_ROCKET)
    job = understood(path, date_order="dmy", time_zone="Europe/Berlin", types=("ordr=purchase",))
    assert [note.split(" ")[0] for note in job.guess.notes[-3:]] == [
        "--date-order",
        "--time-zone",
        "--map-type:",
    ]


def test_the_only_dates_are_the_time(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "user,item,stars,ordered\nada,tea,5,2024-01-31\n")
    assert mapping(path)["timestamp"] == "ordered"
    path = write(tmp_path / "u.csv", "user,item,stars,a,b\nada,tea,5,2024-01-31,2024-02-01\n")
    with pytest.raises(DatasetError, match="no column has the time"):
        understood(path)


def test_a_column_named_in_other_case_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ONLINE_RETAIL)
    assert mapping(path, maps=("user=customerid",))["user_id"] == "CustomerID"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"%PDF-1.7", "is a PDF"),
        (b"ARROW1\0\0", "write it as Parquet"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        (b"SQLite format 3\0", "export its table as CSV"),
        (b"", "is empty"),
    ],
)
def test_other_formats_are_named(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(DatasetError, match=problem):
        understood(tmp_path / "t")


@pytest.mark.slow
def test_shared_data_is_understood_by_guess_alone(shared_data: Path) -> None:
    retail = shared_data / "data" / "online_retail" / "online_retail.parquet"
    assert mapping(retail) == {
        "user_id": "customer_id",
        "item_id": "stock_code",
        "session_id": "invoice_no",
        "timestamp": "invoice_ts",
        "properties.price": "unit_price",
        "properties.quantity": "quantity",
        "type": "=purchase",
    }
    otto, rejected = converted(shared_data / "data" / "otto_tiny" / "train.jsonl")
    assert (len(otto), rejected) == (862, [])
    assert {it["type"] for it in otto} == {"click", "add_to_cart", "purchase"}
    products, rejected = converted(
        shared_data / "data" / "product_text" / "retail_demo_store_products.parquet"
    )
    assert (len(products), rejected) == (2_465, [])
    assert all(it["price"] > 0 and it["category"] and it["title"] for it in products)
