"""Data of benchmarks that the repository does not hold."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def shared_data() -> Path:
    """Return the folder of data that benchmarks read: `$TACTFUL_SHARED/data`."""
    return Path(os.environ.get("TACTFUL_SHARED", _ROOT.parent / "shared")) / "data"


def product_texts() -> Path:
    """Return the file of `product_text`: names and descriptions of a demo store."""
    return shared_data() / "product_text" / "retail_demo_store_products.parquet"


def retail_path() -> Path:
    """Return the file of `online_retail`: two years of invoices of a shop."""
    return shared_data() / "online_retail" / "online_retail.parquet"
