"""Times as files write them, read to epoch milliseconds."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

Style = Literal["number", "compact", "iso", "numeric", "named", "typed", "serial"]
DateOrder = Literal["dmy", "mdy"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)
_DAY_MS, _MINUTE_MS = 86_400_000, 60_000
_FIRST_DAY = dt.date(1970, 1, 1).toordinal()
_EXCEL_DAY = dt.date(1899, 12, 30).toordinal()  # day 0 of Excel
_CACHED = 65_536  # minutes whose offset is remembered
_MOST = 0.9  # share of values that have to be of one style

_CLOCK = (
    r"(?:(?:[T,]\s*|\s+)(?P<noon>上午|下午)?(?P<hour>\d{1,2})[:.](?P<minute>\d{2})"
    r"(?:[:.](?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"\s*(?P<half>[AaPp]\.?[Mm]\.?)?(?:\s*Uhr)?"
    r"\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})?)?"
)
_MONTH_NAMES = "jan jän,feb,mar mär mrz,apr,may mai,jun,jul,aug,sep,oct okt,nov,dec dez"
_MONTHS = {
    name: number
    for number, names in enumerate(_MONTH_NAMES.split(","), 1)
    for name in names.split()
}
_WEEKDAY, _NAME = r"(?:[A-Za-z]{2,10}\.?,?\s+)?", r"(?P<name>[A-Za-zä]{3,9})\.?"
_PATTERNS: dict[Style, tuple[re.Pattern[str], ...]] = {
    "iso": (re.compile(r"(?P<year>\d{4})[-/.年](?P<b>\d{1,2})[-/.月](?P<a>\d{1,2})日?" + _CLOCK),),
    "numeric": (
        re.compile(
            r"(?P<a>\d{1,2})(?P<sign>[-/.])(?P<b>\d{1,2})(?P=sign)(?P<year>\d{4}|\d{2})" + _CLOCK
        ),
    ),
    "named": (
        re.compile(_WEEKDAY + r"(?P<a>\d{1,2})\.?[ -]" + _NAME + r"[ ,-]+(?P<year>\d{4})" + _CLOCK),
        re.compile(_WEEKDAY + _NAME + r"\s+(?P<a>\d{1,2}),?\s+(?P<year>\d{4})" + _CLOCK),
        re.compile(_WEEKDAY + _NAME + r"\s+(?P<a>\d{1,2})" + _CLOCK + r"\s+(?P<year>\d{4})"),
    ),
    "compact": (
        re.compile(
            r"(?P<year>(?:19|20)\d{2})(?P<b>0[1-9]|1[0-2])(?P<a>0[1-9]|[12]\d|3[01])"
            r"(?:[T ]?(?P<hour>[01]\d|2[0-3])(?P<minute>[0-5]\d)(?P<second>[0-5]\d)?)?"
        ),
    ),
}
_NUMBER = re.compile(r"\d{9,19}(?:\.\d*)?")
# Nanoseconds of the unit, by the number of digits that times from 2000 on have in it.
_UNITS = {
    **dict.fromkeys((9, 10), 1_000_000_000),
    **dict.fromkeys((12, 13), 1_000_000),
    **dict.fromkeys((15, 16), 1_000),
    **dict.fromkeys((18, 19), 1),
}
UNIT_NAMES = {1_000_000_000: "seconds", 1_000_000: "milliseconds", 1_000: "microseconds", 1: "ns"}


class MomentFormat(msgspec.Struct, frozen=True):
    """Notation of the times of a column.

    Attributes:
        style: numbers since 1970, ``20240131``, ISO 8601, ``31/1/2024``, ``31 Jan 2024``, typed
            values, or days of Excel.
        unit: of numbers, in nanoseconds.
        order: of numeric dates.
        zoned: whether the values say their offset from UTC, as numbers do.
    """

    style: Style
    unit: int = 0
    order: DateOrder = "dmy"
    zoned: bool = False

    @property
    def about(self) -> str:
        """The format in words."""
        if self.style == "number":
            return f"{UNIT_NAMES[self.unit]} since 1970"
        orders = {"dmy": "day/month/year", "mdy": "month/day/year"}
        names = {"iso": "ISO 8601", "compact": "yyyymmdd", "named": "with the month's name"}
        names |= {"numeric": orders[self.order], "serial": "days of Excel", "typed": "date type"}
        return names[self.style]


class UnclearTimes(ValueError):
    """The times of a column can be read in several ways; the message says which."""


def moment_format(values: Iterable[Any], order: DateOrder | None = None) -> MomentFormat | None:
    """Find how times are written; None if most values are no times.

    `order` is used for dates such as ``3/4/2024``, whose order no other value shows.

    Raises:
        UnclearTimes: if they can be read in several ways.
    """
    texts: dict[Style, list[Any]] = {}
    total = 0
    for value in values:
        total += 1
        style = _style(value)
        if style is not None:
            texts.setdefault(style, []).append(value)
    counts = Counter({style: len(found) for style, found in texts.items()})
    if not _are_most(counts.total(), total):
        return None
    (style, count), *others = counts.most_common()
    if not _are_most(count, total):
        other = texts[others[0][0]][0]
        raise UnclearTimes(
            f"are written in several ways, such as {texts[style][0]} and {other}: write all of "
            "them in one"
        )
    found = texts[style]
    if style == "number":
        (unit, count), *_ = Counter(_UNITS[_digits(value)] for value in found).most_common()
        if not _are_most(count, len(found)):
            raise UnclearTimes("are numbers of several units")
        return MomentFormat(style, unit=unit, zoned=True)
    matches = [_match(_text(value), style) for value in found] if style in _PATTERNS else []
    zoned = sum(1 for match in matches if match and match.groupdict().get("zone"))
    zoned += sum(1 for value in found if getattr(value, "tzinfo", None) is not None)
    return MomentFormat(
        style,
        order=_order(matches, order) if style == "numeric" else "dmy",
        zoned=zoned > len(found) / 2,
    )


class MomentReader:
    """Reads the times of one column to epoch milliseconds."""

    def __init__(self, form: MomentFormat, zone: dt.tzinfo) -> None:
        """Read times of a format; those without an offset are times of `zone`."""
        self._form = form
        self._zone = None if zone is dt.UTC else zone
        self._offsets: dict[int, int] = {}

    def __call__(self, value: Any) -> int:
        """Return epoch milliseconds.

        Raises:
            ValueError: if the value is no time of the format.
        """
        style = self._form.style
        if isinstance(value, dt.date):
            return self._from_date(value)
        if style == "typed" and isinstance(value, int):
            return value if self._form.zoned else self.to_utc(value)
        if style == "serial":
            days = _EXCEL_DAY - _FIRST_DAY
            return self.to_utc(round((float(value) + days) * _DAY_MS))
        text = _text(value)
        if style == "number":
            if not _NUMBER.fullmatch(text):
                raise ValueError("is no time")
            whole, _, fraction = text.partition(".")
            nanoseconds = int(whole) * self._form.unit
            if fraction:
                nanoseconds += round(float(f"0.{fraction}") * self._form.unit)
            return nanoseconds // 1_000_000
        if style == "iso":
            try:
                return self._from_date(dt.datetime.fromisoformat(text))
            except ValueError:
                pass
        return self._from_text(text)

    def to_utc(self, local_ms: int) -> int:
        """Convert a time of the zone, as if it were UTC, to epoch milliseconds."""
        if self._zone is None:
            return local_ms
        minute = local_ms // _MINUTE_MS
        offset = self._offsets.get(minute)
        if offset is None:
            local = _EPOCH + dt.timedelta(minutes=minute)
            shift = local.replace(tzinfo=self._zone).utcoffset()
            offset = 0 if shift is None else shift // _MILLISECOND
            if len(self._offsets) >= _CACHED:
                self._offsets.clear()
            self._offsets[minute] = offset
        return local_ms - offset

    def _from_date(self, value: dt.date) -> int:
        if not isinstance(value, dt.datetime):
            return self.to_utc((value.toordinal() - _FIRST_DAY) * _DAY_MS)
        if value.tzinfo is not None:
            return (value - _EPOCH) // _MILLISECOND
        return self.to_utc((value.replace(tzinfo=dt.UTC) - _EPOCH) // _MILLISECOND)

    def _from_text(self, text: str) -> int:
        match = _match(text, self._form.style)
        if match is None:
            raise ValueError(f"is no time of the form {self._form.about}")
        part = match.groupdict()
        month, day = part.get("b"), int(part["a"])
        if self._form.style == "named":
            number = _MONTHS.get(part["name"][:3].lower())
            if number is None:
                raise ValueError("names no month")
        else:
            number = int(month or 0)
            if self._form.style == "numeric" and self._form.order == "mdy":
                number, day = day, number
        year = int(part["year"])
        date = dt.date(year + 2000 if year < 100 else year, number, day)
        moment = (date.toordinal() - _FIRST_DAY) * _DAY_MS + _clock_ms(part)
        zone = part.get("zone")
        return self.to_utc(moment) if zone is None else moment - _zone_ms(zone)


def _are_most(count: int, total: int) -> bool:
    """Whether values are most of all; of a few one may differ."""
    return total > 0 and (count >= _MOST * total or 2 <= count == total - 1)


def _style(value: Any) -> Style | None:
    """Return the style that a single value has."""
    if isinstance(value, dt.date):
        return "typed"
    if isinstance(value, bool):
        return None
    text = _text(value)
    if isinstance(value, int | float) and 36_526 <= value < 73_051:
        return "serial"
    if _match(text, "compact"):
        return "compact"
    if _NUMBER.fullmatch(text):
        return "number" if len(text.partition(".")[0]) in _UNITS else None
    for style in ("iso", "numeric", "named"):
        match = _match(text, style)
        if match and (style != "named" or match["name"][:3].lower() in _MONTHS):
            return style
    return None


def _match(text: str, style: Style) -> re.Match[str] | None:
    for pattern in _PATTERNS[style]:
        match = pattern.fullmatch(text)
        if match is not None:
            return match
    return None


def _digits(value: Any) -> int:
    return len(_text(value).partition(".")[0])


def _text(value: Any) -> str:
    """Return a value as text; a whole number without the ``.0`` of pandas."""
    text = str(value).strip()
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text


def _order(matches: list[re.Match[str] | None], order: DateOrder | None) -> DateOrder:
    """Decide between day and month first by the numbers above twelve."""
    found = [match for match in matches if match is not None]
    days_first = [match[0] for match in found if int(match["a"]) > 12]
    months_first = [match[0] for match in found if int(match["b"]) > 12]
    if days_first and months_first:
        raise UnclearTimes(
            f"have the day first ({days_first[0]}) and the month first ({months_first[0]}): "
            "write all of them in one order"
        )
    shown: DateOrder | None = "dmy" if days_first else "mdy" if months_first else None
    if order is not None and shown is not None and order != shown:
        raise UnclearTimes(f"cannot be read as {order}: {(days_first or months_first)[0]}")
    if shown is None and order is None and any(match["sign"] != "." for match in found):
        raise UnclearTimes(
            f"such as {found[0][0]} may have the day or the month first, and no sampled date "
            "decides: give --date-order dmy or --date-order mdy"
        )
    return shown or order or "dmy"


def _clock_ms(part: dict[str, str | None]) -> int:
    """Return the milliseconds of the time of day."""
    hour, minute, second = (int(part.get(name) or 0) for name in ("hour", "minute", "second"))
    half = (part.get("half") or "")[:1].lower()
    if half or part.get("noon"):
        if not 1 <= hour <= 12:
            raise ValueError("has no hour of a half day")
        hour = hour % 12 + (12 if half == "p" or part.get("noon") == "下午" else 0)
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError("has no time of day")
    fraction = int(((part.get("fraction") or "") + "000")[:3])
    return ((hour * 60 + minute) * 60 + min(second, 59)) * 1000 + fraction


def _zone_ms(zone: str) -> int:
    """Return the offset of ``Z``, ``UTC`` or ``+02:00`` in milliseconds."""
    if zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:] or 0)
    return minutes * _MINUTE_MS * (-1 if zone[0] == "-" else 1)
