"""Two real data sets as log entries, for replays that can be checked by hand."""

import json
from collections.abc import Iterator
from pathlib import Path

from tactful_streaming.contract.log_entries import Event

_NO_GOODS = ("POST", "M", "C2", "DOT", "BANK CHARGES", "PADS")
_OTTO_TYPES = {"clicks": "click", "carts": "add_to_cart", "orders": "purchase"}


def retail_events(shared: Path) -> Iterator[Event]:
    """Yield a purchase for each invoice line of Online Retail; cancelled: a return.

    The lines keep the order of the file. Line k of an invoice happens k milliseconds after the
    minute of the invoice. The category is the country.
    """
    import pyarrow.parquet as parquet

    table = parquet.read_table(shared / "data" / "online_retail" / "online_retail.parquet")
    names = ("invoice_no", "stock_code", "quantity", "unit_price", "customer_id", "country")
    columns = [table[name].to_pylist() for name in names]
    minutes = table["invoice_ts"].cast("int64").to_pylist()
    line, last = 0, ""
    for number, (row, minute) in enumerate(zip(zip(*columns, strict=True), minutes, strict=True)):
        invoice, code, quantity, price, customer, country = row
        line = line + 1 if invoice == last else 0
        last = invoice
        if code in _NO_GOODS:
            continue
        yield Event(
            event_id=str(number),
            type="return" if invoice.startswith("C") else "purchase",
            timestamp=minute // 1000 + line,
            user_id=None if customer is None else str(customer),
            device_id=None if customer is not None else f"till-{invoice}",
            session_id=invoice,
            item_id=code,
            properties={
                "quantity": quantity,
                "pence": round(quantity * price * 100),
                "category": country,
            },
        )


def otto_events(shared: Path) -> list[Event]:
    """Clicks, carts and orders of twenty OTTO sessions, in the order of time."""
    events: list[Event] = []
    path = shared / "data" / "otto_tiny" / "train.jsonl"
    for text in path.read_text(encoding="utf-8").splitlines():
        session = json.loads(text)
        events += [
            Event(
                event_id=f"{session['session']}-{number}",
                type=_OTTO_TYPES[event["type"]],
                timestamp=event["ts"],
                user_id=str(session["session"]),
                item_id=str(event["aid"]),
            )
            for number, event in enumerate(session["events"])
        ]
    return sorted(events, key=lambda event: event.timestamp)
