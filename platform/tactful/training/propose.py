"""Propose feature definitions for the properties that a log is found to have.

A number becomes an average or a sum, of the item and of the user; a text with few values groups
what the user does, so that a candidate is compared with what the user prefers. Properties that are
constant, mostly missing, an identity or personal data are left out, with the reason.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import itemgetter

from tactful.imports.names import is_identifying
from tactful.training.log_profile import MOST_VALUES, Kind, LogProfile, PropertyProfile
from tactful_streaming.definitions.model import (
    CUSTOM_PREFIX,
    Definitions,
    Feature,
    Window,
    dump_definitions,
)

DAY_MS = 86_400_000
MONTH = Window(28 * DAY_MS, 7 * DAY_MS)
QUARTER = Window(84 * DAY_MS, 7 * DAY_MS)
VISIT = Window(DAY_MS, DAY_MS)

_FEWEST = 20  # values; fewer say nothing
_LEAST_SHARE = 0.05
_CONSTANT = 0.995
_UNIQUE = 0.5
_MOST_GROUPS = 1_000
_LONG_TEXT = 60  # characters on average
_CIRCUMSTANCES = ("device", "referrer", "region", "time_zone")  # that ranking reads of the visit
_OWN = frozenset({"category", "consent", "items", "query", "currency"})
_SUMS = re.compile(r"price|amount|total|spend|value|quantity|qty|count|revenue|_ms$|duration|dwell")
_IDS = re.compile(
    r"(?:^|[_-])(?:id|ids|uuid|guid|hash|token|key|number|nr|no|code|sku|ean|gtin|ref)$"
)
_TAKES = ("add_to_cart", "purchase")
_SEES = ("view", "click", "rating")
_OF_PEOPLE = re.compile(
    r"customer|user|account|card|household|member|visitor|client|person|basket|cart|order|session"
    r"|transaction|invoice|device"
)
_LOCATION = re.compile(r"^(?:lat|lon|lng|latitude|longitude|geo.*|gps.*)$")
_NAMEABLE = re.compile(r"[^\s.]{1,64}")


@dataclass(frozen=True)
class Proposal:
    """A definition, and the reason for it."""

    feature: Feature
    why: str


@dataclass(frozen=True)
class Refusal:
    """A property that no definition is proposed for, and the reason."""

    source: str  # such as ``purchase: properties.email``
    why: str


@dataclass
class Proposals:
    """Result of `propose`."""

    proposed: list[Proposal] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def propose(profile: LogProfile, present: Definitions, most: int) -> Proposals:
    """Propose at most `most` definitions beside the present ones.

    Those of items come first, then those of events, by how many have the property.
    """
    result = Proposals()
    found: list[tuple[bool, int, Proposal]] = []
    for source, kind, name, values in _properties(profile):
        if reason := refusal(name, values, kind.count):
            result.refused.append(Refusal(source, reason))
            continue
        proposals = [*_of_property(profile, source, name, values)]
        if not proposals:
            result.refused.append(Refusal(source, "no item has this property to compare with"))
        of_events = kind is not profile.items
        found += [(of_events, -values.present, proposal) for proposal in proposals]
    found += [(True, -count, proposal) for count, proposal in _of_types(profile)]
    found.sort(key=itemgetter(0, 1))
    taken = {definition.name for definition in present.all}
    known = {_meaning(feature) for feature in present.features}
    for _, _, proposal in found:
        feature = proposal.feature
        if _meaning(feature) in known:
            continue
        if len(result.proposed) >= most:
            source = f"{', '.join(feature.events)}: {feature.of or feature.group_by}"
            result.refused.append(Refusal(source, f"more than {most} definitions"))
            continue
        known.add(_meaning(feature))
        name = _free(feature.name, taken)
        taken.add(name)
        result.proposed.append(Proposal(replace(feature, name=name), proposal.why))
    return result


def as_yaml(proposals: Proposals, present: str) -> str:
    """Return a whole file: the text of the present definitions, and the proposed ones below."""
    lines = [present.rstrip("\n"), "", "# Proposed by `tactful features propose`."]
    for proposal in proposals.proposed:
        # No name of the log may end the comment.
        lines.append(f"# {' '.join(proposal.why.split())}")
        lines.append(dump_definitions(Definitions((proposal.feature,))).rstrip("\n"))
    return "\n".join(lines) + "\n"


def refusal(name: str, values: PropertyProfile, of: int) -> str | None:
    """Return why no definition can use a property of `of` events or items; None if one can."""
    if not _NAMEABLE.fullmatch(name):
        return "a definition cannot name it: blanks, dots or more than 64 characters"
    named = is_identifying(name) or _LOCATION.match(name.lower())
    if named or values.emails or values.phones > 0.05 * values.present:
        return "looks like personal data"
    if name in _OWN:
        return "the packaged definitions read it"
    if name == "position":
        return "a place says where an item was shown: training corrects for it instead"
    if values.present < max(_FEWEST, _LEAST_SHARE * of):
        return f"mostly missing: {values.present:,} of {of:,} have it"
    if values.others > 0.5 * values.present:
        return "a list"
    if values.flags > 0.5 * values.present:
        return "true or false: send 1 and 0 to average it"
    if values.distinct < 2 or values.commonest_share > _CONSTANT:
        return "constant"
    is_numeric = values.numbers > 0.9 * values.present
    return _refused_number(name, values) if is_numeric else _refused_text(name, values)


def _refused_number(name: str, values: PropertyProfile) -> str | None:
    if values.whole < 0.999 * values.numbers or name.endswith("_ms"):
        return "an identity" if _IDS.search(name) else None
    nearly_unique = values.unique_share > _UNIQUE
    spread = values.greatest - values.least
    if values.least >= 1e9 and values.greatest < 5e12 and spread < values.least:
        return "a time or an identity"
    consecutive = spread < 4 * values.distinct and values.distinct > 100
    of_people = _OF_PEOPLE.search(name) and not _SUMS.search(name) and values.distinct > 50
    if _IDS.search(name) or of_people or (nearly_unique and (consecutive or values.least >= 1e6)):
        return "an identity"
    return None


def _refused_text(name: str, values: PropertyProfile) -> str | None:
    if values.texts <= 0.9 * values.present:
        return "numbers and texts are mixed"
    if values.unique_share > _UNIQUE or (_IDS.search(name) and values.distinct > 50):
        return "an identity or free text: most values come once"
    if values.characters > _LONG_TEXT * values.texts:
        return "long texts"
    if values.written_numbers > 0.9 * values.texts and values.distinct > 50:
        return "numbers written as texts: send numbers"
    if values.distinct > _MOST_GROUPS:
        count = f"{MOST_VALUES:,} or more" if values.distinct >= MOST_VALUES else values.distinct
        return f"too many values to group by: {count}"
    return None


def _properties(profile: LogProfile) -> Iterator[tuple[str, Kind, str, PropertyProfile]]:
    kinds = [(f"{type_}: properties", kind) for type_, kind in sorted(profile.events.items())]
    for prefix, kind in [*kinds, ("item", profile.items)]:
        for name, values in sorted(kind.properties.items()):
            yield f"{prefix}.{name}", kind, name, values


def _of_property(
    profile: LogProfile, source: str, name: str, values: PropertyProfile
) -> Iterator[Proposal]:
    type_, _, of = source.rpartition(": ")
    is_numeric = values.numbers > 0.9 * values.present
    if not type_:
        yield from _of_items(profile, of, name, values, is_numeric)
        return
    seen = f"{values.present:,} {type_} events have {name}"
    if is_numeric:
        ranged = f"{seen}, a number from {values.least:g} to {values.greatest:g}"
        kind = profile.events[type_]
        slug = _slug(f"{type_}_{name}")
        total = "sum" if _SUMS.search(name) else "mean"
        of_user = Feature(f"{slug}_{total}_28d", "user", (type_,), total, of, window=MONTH)
        yield Proposal(of_user, f"{ranged}: {total} for each user")
        if kind.with_item > 0.5 * kind.count:
            of_item = Feature(f"item_{slug}_28d", "item", (type_,), "mean", of, window=MONTH)
            yield Proposal(of_item, f"{ranged}: average for each item")
    elif name in _CIRCUMSTANCES:
        types = tuple(it for it, kind in sorted(profile.events.items()) if name in kind.properties)
        latest = Feature(f"visit_{name}", "session", types, "last_n", of, n=1, window=VISIT)
        yield Proposal(latest, f"{seen}: ranking reads the latest of the visit")
    elif name in profile.items.properties:
        grouped = Feature(
            _slug(f"{type_}_{name}_84d"), "user", (type_,), "count", group_by=of, window=QUARTER
        )
        why = f"{seen}, {values.distinct} values that items have, too: how often each user meets it"
        yield Proposal(grouped, why)


def _of_items(
    profile: LogProfile, of: str, name: str, values: PropertyProfile, is_numeric: bool
) -> Iterator[Proposal]:
    events = tuple(
        it
        for it in (*_SEES, *_TAKES)
        if it in profile.events and profile.events[it].with_item >= _FEWEST
    )
    if not events:
        return
    seen = f"{values.present:,} descriptions of items have {name}"
    if not is_numeric:
        grouped = Feature(
            _slug(f"{name}_84d"), "user", events, "count", group_by=of, window=QUARTER
        )
        yield Proposal(grouped, f"{seen}, {values.distinct} values: how often each user chose it")
        return
    ranged = f"{seen}, a number from {values.least:g} to {values.greatest:g}"
    of_item = Feature(_slug(f"item_{name}_84d"), "item", events, "mean", of, window=QUARTER)
    yield Proposal(of_item, f"{ranged}: that of the candidate")
    of_user = Feature(_slug(f"usual_{name}_84d"), "user", events, "mean", of, window=QUARTER)
    yield Proposal(of_user, f"{ranged}: what each user usually chooses")


def _of_types(profile: LogProfile) -> Iterator[tuple[int, Proposal]]:
    """Propose counts of a shop's own types of events about items, each apart."""
    for type_, kind in sorted(profile.events.items()):
        if type_.startswith(CUSTOM_PREFIX) and kind.with_item >= max(_FEWEST, 0.5 * kind.count):
            counted = Feature(_slug(f"{type_}_28d"), "item", (type_,), "count", window=MONTH)
            why = f"{kind.with_item:,} {type_} events are about an item: how many each item has"
            yield kind.count, Proposal(counted, why)


def _meaning(feature: Feature) -> tuple[object, ...]:
    """Return what a feature computes, whatever its name and window."""
    events = () if feature.aggregate == "last_n" else feature.events
    return feature.entity, events, feature.aggregate, feature.of, feature.group_by


def _slug(text: str) -> str:
    """Return a name for a definition."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "_", plain.removeprefix("x.")).strip("_")[:48]
    return slug if slug[:1].isalpha() else f"of_{slug}".rstrip("_")


def _free(name: str, taken: set[str]) -> str:
    return next(
        candidate
        for number in range(1, len(taken) + 2)
        if (candidate := name if number == 1 else f"{name}_{number}") not in taken
    )
