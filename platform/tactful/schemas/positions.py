"""Log positions: the offset in each partition of the log.

In HTTP messages the position in a log of one partition is a number, in a log of several it is text,
``0:128,3:77``: the offset by partition. Irrelevant partitions are left out. A client keeps a
position unchanged; :func:`latest` and :func:`covers` compare positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Position = int | str
"""A position in HTTP messages."""

Offsets = Mapping[int, int]
"""A parsed position: the first offset behind it, by partition."""

_TEXT = re.compile(r"\d{1,6}:\d{1,18}(,\d{1,6}:\d{1,18})*", re.ASCII)


def parse(position: Position) -> dict[int, int]:
    """Parse a position.

    >>> parse("0:128,3:77")
    {0: 128, 3: 77}

    Raises:
        ValueError: if it is not a position.
    """
    if isinstance(position, int):
        return {0: position}
    if position == "":
        return {}
    if not _TEXT.fullmatch(position):
        raise ValueError("this is not a position: send one as it was returned")
    parts = (part.split(":") for part in position.split(","))
    return {int(number): int(offset) for number, offset in parts}


def as_text(offsets: Offsets) -> str:
    """Format the position in a log of several partitions."""
    return ",".join(f"{number}:{offset}" for number, offset in sorted(offsets.items()))


def merged(positions: Iterable[Offsets]) -> dict[int, int]:
    """Return the highest offset of several positions, by partition."""
    furthest: dict[int, int] = {}
    for offsets in positions:
        for number, offset in offsets.items():
            furthest[number] = max(offset, furthest.get(number, 0))
    return furthest


def latest(positions: Iterable[Position]) -> Position:
    """Return the position behind all of `positions`; 0 for none."""
    several = [position for position in positions if position != ""]
    numbers = [position for position in several if isinstance(position, int)]
    if len(numbers) == len(several):
        return max(numbers, default=0)
    return as_text(merged(map(parse, several)))


def reaches(offsets: Offsets, wanted: Offsets) -> bool:
    """Return whether `offsets` reach `wanted` in every partition of `wanted`."""
    return all(offsets.get(number, 0) >= offset for number, offset in wanted.items())


def covers(position: Position, wanted: Position) -> bool:
    """Return whether everything before `wanted` lies before `position`, too."""
    return reaches(parse(position), parse(wanted))
