"""Numbers and currencies as people write them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.imports.amounts import NumberFormat, currency_of, number_format, read_number

POINT, COMMA = NumberFormat("."), NumberFormat(",")


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ("12", POINT, 12),
        ("12.50", POINT, 12.5),
        (".5", POINT, 0.5),
        ("1,234.50", POINT, 1234.5),
        ("12,34,567.5", POINT, 1234567.5),  # India
        ("1e3", POINT, 1000),
        ("$1,234.50", POINT, 1234.5),
        ("15.00 USD", POINT, 15),
        ("US$ 9.99", POINT, 9.99),
        ("(3.5)", POINT, -3.5),
        ("-3.5", POINT, -3.5),
        ("\u22123.5", POINT, -3.5),
        ("3.5-", POINT, -3.5),
        ("1'234.50", POINT, 1234.5),  # Switzerland
        ("12,50 €", COMMA, 12.5),
        ("1.234,50", COMMA, 1234.5),
        ("1 234,50", COMMA, 1234.5),
        ("1\u202f234,50 €", COMMA, 1234.5),
        ("1.234.567", COMMA, 1234567),
        (7, COMMA, 7),
        (2.0, POINT, 2),
        (Decimal("2.50"), POINT, 2.5),
    ],
)
def test_numbers_are_read(text: Any, form: NumberFormat, expected: float) -> None:
    assert read_number(text, form) == expected
    assert type(read_number(text, form)) is type(expected)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("12,50", POINT),  # not 1250
        ("12.50", COMMA),
        ("1,2,3", POINT),
        ("1_000", POINT),
        ("nan", POINT),
        ("inf", POINT),
        (float("nan"), POINT),
        ("1e999", POINT),
        ("", POINT),
        ("-", POINT),
        ("six", POINT),
        ("12 pieces", POINT),
        (True, POINT),
        ("1.2.3,4,5", COMMA),
    ],
)
def test_what_is_no_number_is_never_another_one(text: Any, form: NumberFormat) -> None:
    with pytest.raises(ValueError, match="number"):
        read_number(text, form)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["12,50", "3"], COMMA),
        (["12.50", "3"], POINT),
        (["1.234", "2,5"], COMMA),
        (["1,234", "2.5"], POINT),
        (["1.234,50"], COMMA),
        (["1,234,567"], POINT),
        (["1.234.567"], COMMA),
        (["0,123"], COMMA),
        (["1234,567"], COMMA),
        (["1", "2", None, 3.5], POINT),
        (["1,234", "5,678"], NumberFormat(".", sure=False)),
        (["1,5", "1.5"], NumberFormat(".", sure=False)),
    ],
)
def test_the_decimal_sign_is_found(values: list[Any], expected: NumberFormat) -> None:
    assert number_format(values) == expected


def test_currencies_are_found() -> None:
    texts = ["15.00 USD", "€12", "12,50 €", "CHF 3", "£1", "12.50", "¥5", "5 kr", 3.5]
    found = [currency_of(text) for text in texts]
    assert found == ["USD", "EUR", "EUR", "CHF", "GBP", None, None, None, None]


@given(st.decimals(-(10**9), 10**9, places=2), st.sampled_from([".", ","]), st.booleans())
def test_written_numbers_are_read_as_they_were(
    number: Decimal, decimal: str, grouped: bool
) -> None:
    text = f"{number:,.2f}" if grouped else f"{number:.2f}"
    form = POINT
    if decimal == ",":
        text, form = text.translate(str.maketrans(".,", ",.")), COMMA
    assert read_number(text, form) == float(number)
