"""Attributes read as numbers, instants, versions or addresses, for conditions.

```yaml
someValue: {$number: {$gt: 12}}                          # "12.5" and 12.5 both hold
currentTime: {$date: {$lt: "2027-01-29T13:00:00Z"}}      # also milliseconds since 1970
version: {$semver: {$gte: 1.2.2}}                        # semver.org: 2.0.0-rc.1 before 2.0.0
remoteAddress: {$cidr: [10.0.0.0/8, "2001:db8::/32"]}
```

A value that cannot be read matches nothing.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:T([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_IDENTIFIER = "(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    rf"(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda left, right: left == right,
    "$ne": lambda left, right: left != right,
    "$lt": lambda left, right: left < right,
    "$lte": lambda left, right: left <= right,
    "$gt": lambda left, right: left > right,
    "$gte": lambda left, right: left >= right,
}
COMPARISONS = tuple(_COMPARISONS)
"""Operators within a typed comparison."""


def parse_number(text: str) -> float:
    """Return the number that a text holds, or NaN; decimal notation only."""
    stripped = text.strip(" \t\n\r")
    return float(stripped) if _NUMBER.fullmatch(stripped) else math.nan


def read_number(value: object) -> float | None:
    """Return a finite number or the number in a text, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = parse_number(value) if isinstance(value, str) else float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def read_instant(value: object) -> float | None:
    """Return milliseconds since 1970 of a number or an ISO 8601 text, or None.

    A text without a zone is in UTC; fractions below a millisecond are cut off.
    """
    if isinstance(value, int | float):
        return read_number(value)
    parts = _INSTANT.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = parts.groups(default="")
    numbers = [int(part or 0) for part in (year, month, day, hour, minute, second)]
    millisecond = int(fraction[:3].ljust(3, "0")) if fraction else 0
    try:
        moment = datetime(*numbers, millisecond * 1000, tzinfo=UTC)  # type: ignore[arg-type,misc]
    except ValueError:
        return None
    offset = 0
    if zone and zone != "Z":
        offset = int(zone[:3]) * 60 + int(zone[0] + zone[4:])
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return float(elapsed // timedelta(milliseconds=1) - offset * 60_000)


def read_semver(value: object) -> tuple[Any, ...] | None:
    """Return a key that sorts by precedence of Semantic Versioning 2.0, or None."""
    parts = _SEMVER.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        return None
    release = tuple(int(part) for part in parts.groups()[:3])
    if parts[4] is None:
        return (*release, 1, ())
    # Numbers come before texts, a shorter list before a longer one with the same beginning.
    pre_release = tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts[4].split(".")
    )
    return (*release, 0, pre_release)


def in_networks(value: object, networks: object) -> bool:
    """Return whether an IP address lies in one of the networks; unreadable ones hold nothing."""
    if not isinstance(value, str) or not isinstance(networks, list | tuple):
        return False
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    found = map(read_network, networks)
    return any(network is not None and address in network for network in found)


def read_network(text: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the network of a text such as ``10.0.0.0/8``, or None."""
    try:
        return ipaddress.ip_network(text, strict=False) if isinstance(text, str) else None
    except ValueError:
        return None


READERS: dict[str, Callable[[object], Any]] = {
    "$number": read_number,
    "$date": read_instant,
    "$semver": read_semver,
}
"""Functions that read both sides of a typed comparison, by operator."""


def compare_typed(operator: str, actual: object, operand: object) -> bool:
    """Evaluate the comparisons of a typed operator; all must hold, and there must be one."""
    read = READERS[operator]
    left = read(actual)
    if left is None or not isinstance(operand, Mapping) or not operand:
        return False
    for name, limit in operand.items():
        right = read(limit)
        if name not in _COMPARISONS or right is None or not _COMPARISONS[name](left, right):
            return False
    return True
