"""Findings: what of a profile a person should look at, and what a check fails for.

===========  ======  ===========================================================================
code         level   when, of fields with 50 elements or more in each half
===========  ======  ===========================================================================
missing      fail    the share without a value rises by 20 points from first to second half
type         fail    more than one type of values, the rarer ones 1 in 1,000 or more
new_values   warn    of few values, one in twenty in the second half is new
range        warn    a price or quantity is negative
duplicates   warn    one id in a hundred came before
look_alikes  warn    one event in fifty is equal to an earlier one but for its id
refused      fail    one element in a hundred is not accepted
empty        fail    there are no elements
===========  ======  ===========================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tactful.schemas.data.quality import Code, FieldQuality, Finding, Level

_LEAST = 50
_RISE = 0.2
_ODD_TYPES = 0.001
_NEW = 0.05
_FEW_VALUES = 50
_DUPLICATES = 0.01
_LOOK_ALIKES = 0.02
_REFUSED = 0.01
_POSITIVE = frozenset({"price", "properties.price", "properties.quantity"})


def findings_of(
    fields: Sequence[FieldQuality],
    *,
    elements: int,
    duplicates: int,
    look_alikes: int,
    refused: int,
) -> list[Finding]:
    """Return the findings, failures first."""
    found = [finding for each in fields for finding in _of_field(each)]
    found += _of_elements(elements, duplicates, look_alikes, refused)
    return sorted(found, key=lambda finding: finding.level != "fail")


def _of_field(each: FieldQuality) -> Iterator[Finding]:
    def found(level: Level, code: Code, message: str) -> Finding:
        return Finding(level=level, code=code, of=each.of, field=each.field, message=message)

    total = sum(each.types.values())
    odd = total - max(each.types.values(), default=0)
    if odd and odd >= total * _ODD_TYPES:
        listed = ", ".join(f"{number:,} {kind}" for kind, number in each.types.items())
        yield found("fail", "type", f"has values of several types: {listed}")
    if each.field in _POSITIVE and each.lowest is not None and each.lowest < 0:
        yield found("warn", "range", f"is negative, down to {each.lowest:g}")
    if each.elements < 2 * _LEAST:
        return
    if each.missing_after - each.missing_before >= _RISE:
        before, after = each.missing_before, each.missing_after
        message = f"is missing in {after:.0%} of the second half, in {before:.0%} of the first"
        yield found("fail", "missing", message)
    few = each.distinct is not None and each.distinct <= _FEW_VALUES
    if few and each.new_share is not None and each.new_share >= _NEW:
        new = ", ".join(each.new_values)
        yield found("warn", "new_values", f"has new values in {each.new_share:.0%}: {new}")


def _of_elements(
    elements: int, duplicates: int, look_alikes: int, refused: int
) -> Iterator[Finding]:
    if not elements and not refused:
        yield Finding(level="fail", code="empty", message="there are no elements")
    counts: list[tuple[Level, Code, int, float, str]] = [
        ("warn", "duplicates", duplicates, _DUPLICATES, "have an id that came before"),
        ("warn", "look_alikes", look_alikes, _LOOK_ALIKES, "equal an earlier one but for the id"),
        ("fail", "refused", refused, _REFUSED, "are not accepted"),
    ]
    for level, code, number, share, what in counts:
        total = elements + (refused if code == "refused" else 0)
        if number and number >= total * share:
            yield Finding(level=level, code=code, message=f"{number:,} of {total:,} {what}")
