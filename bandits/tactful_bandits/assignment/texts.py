"""Texts of JSON values, the same as JavaScript writes them.

Hashes and comparisons run over texts, so that Python and JavaScript have to write a number alike:
`1e-7` (Python: `1e-07`), `10000000000000000` (Python: `1e+16`). A whole number beyond 2**53 counts
as the nearest double, because JavaScript cannot hold another.

Source of the format of numbers: ECMAScript 2024, Number::toString.
"""

import json
import math
import re
from collections.abc import Mapping

_EXACT = 2**53
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def as_text(value: object) -> str:
    """Return a text itself, and the JSON text of another value."""
    return value if isinstance(value, str) else as_json(value)


def as_json(value: object) -> str:
    """Return the JSON text of a value, without spaces and with characters as they are.

    Keys are ordered by their UTF-16 code units, so that equal mappings have one text. A lone
    surrogate is escaped, so the text can always be encoded as UTF-8.
    """
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        if text.isascii():
            return text
        return _LONE_SURROGATES.sub(lambda found: f"\\u{ord(found[0]):x}", text)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return number_text(value)
    if isinstance(value, Mapping):
        named = sorted(((str(key), part) for key, part in value.items()), key=_utf16)
        return "{" + ",".join(f"{as_json(key)}:{as_json(part)}" for key, part in named) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(as_json, value)) + "]"
    return as_json(str(value))


def number_text(value: float) -> str:
    """Return the shortest text that reads back as the number, as JavaScript writes it."""
    if isinstance(value, int) and -_EXACT <= value <= _EXACT:
        return str(value)
    number = as_double(value)
    if not math.isfinite(number):
        return "null"
    if number == 0:
        return "0"
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0").rstrip("0")
    # The number is 0.DIGITS times ten to the power of `point`.
    leading = len(fraction) - len(fraction.lstrip("0")) if whole == "0" else 0
    point = (len(whole) if whole != "0" else -leading) + int(exponent or 0)
    sign = "-" if number < 0 else ""
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = f"e{point - 1:+d}"
    return f"{sign}{digits[0]}{'.' if len(digits) > 1 else ''}{digits[1:]}{power}"


def as_double(value: float) -> float:
    """Return a number as a double; infinite for a whole number beyond all doubles."""
    try:
        return float(value)
    except OverflowError:  # JSON may hold a whole number of any size
        return math.inf if value > 0 else -math.inf


def is_true(value: object) -> bool:
    """Return whether JavaScript takes a value as true: lists and mappings are, even empty."""
    if isinstance(value, list | tuple | Mapping):
        return True
    return bool(value) and value == value  # NaN differs from itself


def compare_texts(left: str, right: str) -> int:
    """Return -1, 0 or 1 for texts in the order of their UTF-16 code units."""
    if left.isascii() and right.isascii():
        return (left > right) - (left < right)
    first = left.encode("utf-16-be", "surrogatepass")
    second = right.encode("utf-16-be", "surrogatepass")
    return (first > second) - (first < second)


def _utf16(entry: tuple[str, object]) -> bytes:
    return entry[0].encode("utf-16-be", "surrogatepass")
