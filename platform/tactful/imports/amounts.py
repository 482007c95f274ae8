"""Numbers as people and programs write them: decimal commas, separators, currencies."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Literal

import msgspec

Decimal_ = Literal[".", ","]

_SYMBOLS = {
    "€": "EUR",
    "£": "GBP",
    "₹": "INR",
    "₽": "RUB",
    "₩": "KRW",
    "₺": "TRY",
    "₴": "UAH",
    "₫": "VND",
    "₪": "ILS",
    "zł": "PLN",
    "Kč": "CZK",
    "R$": "BRL",
    "元": "CNY",
    "US$": "USD",
    "$": "USD",
    "¥": None,  # of Japan or of China
    "￥": None,
    "kr": None,  # of four countries
    "Fr.": "CHF",
}
_UNIT = re.compile(
    r"[A-Z]{3}(?![A-Za-z])|" + "|".join(map(re.escape, sorted(_SYMBOLS, key=len, reverse=True)))
)
_DIGITS = re.compile(r"[-+]?(?:\d[\d.,]*|[.,]\d+)")
_SPACES = str.maketrans("", "", "'’ \u00a0\u202f\u2009")
_PLAIN = re.compile(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?")


class NumberFormat(msgspec.Struct, frozen=True):
    """Notation of the numbers of a column.

    Attributes:
        decimal: sign before the fraction.
        sure: whether the sample shows it: ``1,234`` alone could be either.
    """

    decimal: Decimal_ = "."
    sure: bool = True


def read_number(value: Any, form: NumberFormat) -> float:
    """Return a number; a whole one as `int`.

    >>> read_number("1.234,50 €", NumberFormat(","))
    1234.5
    >>> read_number("(3)", NumberFormat())
    -3

    Raises:
        ValueError: if it is none.
    """
    if isinstance(value, bool):
        raise ValueError("is no number")
    if isinstance(value, int | float | Decimal):
        number = float(value)
    else:
        text = str(value).strip()
        if not (form.decimal == "." and _PLAIN.fullmatch(text)):
            text = _plain(text, form.decimal)
        number = float(text)
    if not math.isfinite(number):
        raise ValueError("is no finite number")
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def currency_of(value: Any) -> str | None:
    """Return the ISO 4217 code that a price names: ``EUR`` of ``12,50 €``."""
    match = _UNIT.search(value) if isinstance(value, str) else None
    if match is None:
        return None
    return _SYMBOLS.get(match[0], match[0])


def number_format(values: Iterable[Any], default: Decimal_ = ".") -> NumberFormat:
    """Find how numbers are written; `default` decides where no value shows it."""
    seen: set[str] = set()
    doubtful = False
    for value in values:
        if not isinstance(value, str):
            continue
        digits = _DIGITS.search(value.translate(_SPACES))
        signs = re.findall(r"[.,]", digits[0].rstrip(".,")) if digits else []
        if not signs or digits is None:
            continue
        decimal = _decimal_of(digits[0].rstrip(".,"), signs)
        if decimal is None:
            doubtful = True
        else:
            seen.add(decimal)
    if len(seen) == 1:
        return NumberFormat("," if "," in seen else ".")
    return NumberFormat(default, sure=not doubtful and not seen)


def are_numbers(values: Sequence[Any], form: NumberFormat) -> float:
    """Return the share of values that are numbers."""
    good = 0
    for value in values:
        try:
            read_number(value, form)
        except ValueError:
            continue
        good += 1
    return good / len(values) if values else 0.0


def _decimal_of(digits: str, signs: list[str]) -> str | None:
    """Return the sign before the fraction; None if it may separate thousands."""
    last = signs[-1]
    if len(set(signs)) == 2:
        return last
    if len(signs) > 1:  # 1.234.567
        return "," if last == "." else "."
    whole, _, fraction = digits.lstrip("+-").partition(last)
    # A separator of thousands has three digits behind it, and one to three before.
    if len(fraction) != 3 or len(whole) > 3 or whole in ("", "0"):
        return last
    return None


def _plain(text: str, decimal: str) -> str:
    """Return a number as `float` reads it."""
    negative = False
    if text.startswith("(") and text.endswith(")"):
        text, negative = text[1:-1], True
    text = _UNIT.sub("", text, count=1).translate(_SPACES).replace("\u2212", "-")
    if text.endswith("-") and text[:1].isdigit():  # 12.50-
        text, negative = text[:-1], True
    whole, sign, fraction = text.partition(decimal)
    thousands = "." if decimal == "," else ","
    if thousands in whole:
        first, *groups = whole.split(thousands)
        # India groups by two, but for the last three digits.
        if len(groups[-1]) != 3 or not all(len(group) in (2, 3) for group in groups):
            raise ValueError(f"is no number with the decimal sign {decimal!r}")
        whole = first + "".join(groups)
    text = f"{whole}.{fraction}" if sign else whole
    if not _PLAIN.fullmatch(text):
        raise ValueError("is no number")
    return f"-{text}" if negative else text
