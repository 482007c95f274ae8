"""What is upserted before a replay knows nothing of what happens after the cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tactful.demo import datasets
from tactful.demo.datasets import Replay, completejourney, online_retail


def prices(replay: Replay) -> dict[str, Any]:
    return {item["item_id"]: item.get("price") for item in replay.items}


def invoices(after: dict[str, float]) -> pd.DataFrame:
    """Two invoices before the cut, and one line after it for each item of `after`."""
    before = [("1", "A", 2.0), ("2", "A", 3.0), ("2", "B", 5.0)]
    later = [("3", item, price) for item, price in after.items()]
    return pd.DataFrame(
        {
            "invoice_no": [invoice for invoice, *_ in before + later],
            "stock_code": [item for _, item, _ in before + later],
            "unit_price": [price for *_, price in before + later],
            "description": [f"{item} OF {invoice}" for invoice, item, _ in before + later],
            "quantity": 1,
            "invoice_ts": pd.to_datetime(
                ["2011-11-01"] * len(before) + ["2011-12-01"] * len(later)
            ),
            "customer_id": 17850,
        }
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
    pd.DataFrame({"household_id": [1], "age": ["35-44"]}).to_parquet(
        folder / "demographics.parquet"
    )
    assert prices(completejourney()) == {"1": 2.5, "2": None}
