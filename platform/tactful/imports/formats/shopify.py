"""Shopify's export of products: several rows a product, for its variants and pictures.

A product becomes one row: its own columns, and of its variants the lowest price, all SKUs and
whether any of them can be bought. With `variants` every variant is a row instead, with the columns
of its product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, groupby, islice
from typing import Any

from tactful.imports.amounts import NumberFormat, read_number
from tactful.imports.formats.delimited import DelimitedReader
from tactful.imports.formats.rows import (
    SAMPLED_ROWS,
    Column,
    Place,
    Rows,
    WholeFileReader,
    as_columns,
)

AVAILABLE = "available"  # column that this reader adds
_HANDLE = ("Handle", "URL handle")
_SKU = ("Variant SKU", "SKU")
_PRICE = ("Variant Price", "Price")
_STOCK = ("Variant Inventory Qty", "Inventory quantity")
_POLICY = ("Variant Inventory Policy", "Continue selling when out of stock")
_PUBLISHED = ("Published", "Published on online store")
_TRACKER = "Variant Inventory Tracker"
_NO = ("false", "no", "deny", "0")

Record = dict[str, Any]


def is_shopify(columns: list[str]) -> bool:
    """Whether these are the columns of Shopify's export of products."""
    return "Title" in columns and all(
        any(name in columns for name in names) for names in (_HANDLE, _SKU, _PRICE)
    )


class ShopifyReader(WholeFileReader):
    """Reader of Shopify's product CSV on top of that of CSV."""

    def __init__(self, table: DelimitedReader, item_column: str | None = None) -> None:
        """Read a table whose columns `is_shopify` knows.

        `item_column` is the column of item ids that the user has chosen: if it is that of the
        SKUs, every variant is a row.
        """
        super().__init__(table.path, f"Shopify products, {table.about}")
        self.holds = "items"
        self.notes = table.notes
        self.columns = [*table.columns, AVAILABLE]
        self._table = table
        self._handle = self._name(_HANDLE) or ""
        self.variants = item_column is not None and item_column == self._name(_SKU)
        self.hints = {"item_id": (self.variants and item_column) or self._handle}
        if not self.variants:
            self.notes.append(
                "one item a product, by its handle; --map "
                f"'item={self._name(_SKU)}' makes one of every variant"
            )

    def sample(self) -> list[Column]:
        """Return the first products."""
        products = islice(self._records(), SAMPLED_ROWS)
        return as_columns([record for _, record in products], self.columns)

    def _read(self, skip: int, count: int) -> Iterator[Rows]:
        records = islice(self._records(), skip, None)
        while block := list(islice(records, count)):
            skip += len(block)
            columns = as_columns([record for _, record in block], self.columns)
            yield Rows(columns, [number for number, _ in block], Place(skip))

    def _records(self) -> Iterator[tuple[int, Record]]:
        """Yield rows with their line: products, or their variants."""
        for _, lines in groupby(self._lines(), lambda line: line[1].get(self._handle)):
            group = list(lines)
            product = group[0][1]
            variants = [line for line in group if self._value(line[1], _PRICE)]
            if not self.variants:
                yield group[0][0], self._product(product, [record for _, record in variants])
                continue
            for number, variant in variants:
                merged = {name: variant.get(name) or product.get(name) for name in self.columns}
                yield number, {**merged, AVAILABLE: self._can_be_bought(product, variant)}

    def _product(self, product: Record, variants: list[Record]) -> Record:
        price, sku = self._name(_PRICE), self._name(_SKU)
        skus = [variant[sku] for variant in variants if sku is not None and variant.get(sku)]
        bought = any(self._can_be_bought(product, variant) for variant in variants)
        merged = {**product, AVAILABLE: bought}
        if price is not None and variants:
            merged[price] = min((variant[price] for variant in variants), key=_amount)
        if sku is not None:
            merged[sku] = skus or None
        return merged

    def _can_be_bought(self, product: Record, variant: Record) -> bool:
        if str(product.get("Status") or "active").lower() != "active":
            return False
        if str(self._value(product, _PUBLISHED) or "true").lower() in _NO:
            return False
        if _TRACKER in self.columns and not variant.get(_TRACKER):
            return True  # its stock is not counted
        stock = self._value(variant, _STOCK)
        policy = str(self._value(variant, _POLICY) or "deny").lower()
        return stock is None or policy not in _NO or _amount(stock) > 0

    def _lines(self) -> Iterator[tuple[int, Record]]:
        batches = self._table.rows(Place(), 1_000)
        return chain.from_iterable(
            (
                (
                    number,
                    {name: cell or None for name, cell in zip(self.columns, row, strict=False)},
                )
                for number, row in zip(rows.numbers, zip(*rows.columns, strict=True), strict=True)
            )
            for rows in batches
        )

    def _name(self, names: tuple[str, ...]) -> str | None:
        return next((name for name in names if name in self._table.columns), None)

    def _value(self, record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
        name = self._name(names)
        return None if name is None else record.get(name)


def _amount(text: str) -> float:
    try:
        return read_number(text, NumberFormat())
    except ValueError:
        return 0.0
