"""Placement rules: required and forbidden places of items, read from a file and applied.

```yaml
- {name: welcome, pin: item-7, position: 1, page: home}
- {name: some_tea, category: tea, at_least: 2, within: 10}
- {name: not_only_tea, category: tea, at_most: 5, within: 10}
- {name: no_campaign_on_top, campaign: any, from_position: 3}
- {name: new_items, new: true, at_least: 1, within: 20}
- {name: item_cap, item: any, per_day: 4}
- {name: spring_cap, campaign: spring, per_day: 10}
```

Rules that forbid (`at_most`, `from_position`, `per_day`) always hold, even if that shortens it.
Rules that demand (`pin`, `at_least`) hold as far as there are items that may be shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import yaml
from msgspec import Meta
from numpy.typing import NDArray

from tactful.errors import ConfigError
from tactful.recall.candidates import Candidates, CatalogueView, extended
from tactful.rerank.exploration import generator_of
from tactful.rerank.new_items import draw_new_items
from tactful.rerank.rerank import Bounds, Group
from tactful_privacy.decoding import DECODE_ERRORS

ANY = "any"

LAST_POSITION = 100
"""The last position that a rule can name."""

_CHOICE = 3
"""Candidates added for each item that a rule demands, for the ranking to choose from."""

_NEWEST = 2_000
_TARGETS = ("pin", "category", "campaign", "new", "item")
_DEMANDS = ("position", "at_least", "at_most", "from_position", "per_day")
_FITTING = {
    "pin": ("position",),
    "category": ("at_least", "at_most", "from_position"),
    "campaign": ("at_least", "at_most", "from_position", "per_day"),
    "new": ("at_least", "at_most"),
    "item": ("per_day",),
}
_PLACE = re.compile(r" - at `(.*)`$")
_STEP = re.compile(r"\[(\d+)\]|\.(\w+)")

Text = Annotated[str, Meta(min_length=1, max_length=256)]
Position = Annotated[int, Meta(ge=1, le=LAST_POSITION)]


class PlacementRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule: a target, and its bound."""

    name: Text  # of the rule, for logs and messages
    pin: Text | None = None  # target: this item …
    position: Position | None = None  # … stands at this position, if it may be shown at all
    category: Text | None = None  # target: items of this category
    campaign: Text | None = None  # target: items of this campaign, or of ``any``
    new: bool | None = None  # target: items that came since the model was trained
    item: Text | None = None  # target: ``any`` item, each for itself
    # least number of items of the target within the first positions
    at_least: Position | None = None
    # most items of the target within the first positions
    at_most: Annotated[int, Meta(ge=0, le=LAST_POSITION)] | None = None
    within: Position | None = None  # number of positions that `at_least` and `at_most` count
    # first position where an item of the target may stand
    from_position: Annotated[int, Meta(ge=2, le=LAST_POSITION)] | None = None
    # most times that a user is shown the target in a UTC day: the item, or the items of the
    # campaign together
    per_day: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    page: Text | None = None  # only for requests whose context has this `page`; None for all

    @property
    def target(self) -> tuple[str, object]:
        """Name and value of its target."""
        return next((name, getattr(self, name)) for name in _TARGETS if _given(self, name))


def load_placement(source: Path | str, *, name: str = "placement") -> tuple[PlacementRule, ...]:
    """Read placement rules from a file or text, and check each alone and all against each other.

    Raises:
        ConfigError: if it cannot be read or a rule is wrong; the message begins ``file:line:``.
    """
    text = source
    if isinstance(source, Path):
        name = str(source)
        try:
            text = source.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source}: cannot be read: {error}") from error
    try:
        root = yaml.compose(str(text), Loader=yaml.SafeLoader)
        data = yaml.safe_load(str(text))
    except (yaml.YAMLError, ValueError, *DECODE_ERRORS) as error:
        mark = getattr(error, "problem_mark", None)
        line = 1 if mark is None else mark.line + 1
        raise ConfigError(
            f"{name}:{line}: not YAML: {getattr(error, 'problem', None) or error}"
        ) from error
    try:
        rules = msgspec.convert([] if data is None else data, type=list[PlacementRule])
    except (msgspec.ValidationError, UnicodeError) as error:
        place = _PLACE.search(str(error))
        message = _PLACE.sub("", str(error)).replace("`", "'")
        steps = _STEP.findall(place[1]) if place else []
        path = [int(number) if number else key for number, key in steps]
        raise ConfigError(f"{name}:{_line(root, path)}: {message}") from error
    for number, problem in chain(_alone(rules), _together(rules)):
        where = f"{name}:{_line(root, [number])}: rule {rules[number].name!r}"
        raise ConfigError(f"{where}: {problem}")
    return tuple(rules)


def on_page(rules: Sequence[PlacementRule], page: object) -> tuple[PlacementRule, ...]:
    """Return the rules that hold on a page."""
    return tuple(rule for rule in rules if rule.page is None or rule.page == page)


def with_demanded(
    candidates: Candidates,
    rules: Sequence[PlacementRule],
    view: CatalogueView,
    allowed: NDArray[np.bool_],  # which rows may be shown, shape (len(view.catalogue),)
    recommendation_id: str,  # decides which new items are drawn
) -> Candidates:
    """Add the items that rules demand to the candidates, with the channel `rule`.

    The most popular of a target come first; new items are drawn, see `draw_new_items`.
    """
    catalogue, learned, demanded = view.catalogue, view.trained_rows, []
    drawn: dict[int, float] = {}
    for rule in rules:
        if rule.pin is not None:
            row = catalogue.rows.get(rule.pin)
            demanded.append(np.array([] if row is None else [row], np.int64))
        elif rule.at_least is not None:
            if rule.new:
                fresh = learned + np.flatnonzero(allowed[learned:])[-_NEWEST:]
                generator = generator_of(recommendation_id, rule.name)
                drawn |= draw_new_items(fresh, candidates, view, rule.at_least, generator)
                demanded.append(np.array([*drawn], np.int64))
            else:
                rows = catalogue.in_campaign if rule.campaign else np.flatnonzero(allowed)
                rows = rows[allowed[rows] & _of_target(rule, view, rows)]
                demanded.append(view.popular.best(rows, _CHOICE * rule.at_least))
    if not demanded:
        return candidates
    rows = np.unique(np.concatenate(demanded))
    return replace(extended(candidates, "rule", rows[allowed[rows]]), drawn=drawn)


def bounds_of(
    rules: Sequence[PlacementRule],
    candidates: Candidates,  # with what the rules demand
    view: CatalogueView,
    count: int,
) -> Bounds:
    """Translate rules into bounds on the candidates.

    A recommendation shorter than the positions of a rule owes it proportionally less, rounded down.
    """
    rows = candidates.rows
    groups: list[Group] = []
    pins: dict[int, tuple[str, int]] = {}
    missing: list[str] = []
    for rule in rules:
        if rule.pin is not None and rule.position is not None:
            row = view.catalogue.rows.get(rule.pin)
            place = int(np.searchsorted(rows, -1 if row is None else row))
            if row is None or place == len(rows) or rows[place] != row:
                missing.append(rule.name)
            else:
                pins[rule.position - 1] = (rule.name, place)
        elif rule.per_day is None:
            members = _of_target(rule, view, rows)
            within, least = rule.within or 0, rule.at_least or 0
            if rule.new and not members.any():
                continue  # a shop without new items lacks nothing
            if count < within:
                within, least = count, least * count // within
            first = 0 if rule.from_position is None else rule.from_position - 1
            drawn = members & np.isin(rows, [*candidates.drawn]) if rule.new and least else None
            groups.append(Group(rule.name, members, within, least, rule.at_most, first, drawn))
    return Bounds(groups, pins, tuple(missing))


def _of_target(
    rule: PlacementRule, view: CatalogueView, rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether each row belongs to a rule's target, shape of `rows`."""
    catalogue = view.catalogue
    if rule.new:
        return rows >= view.trained_rows
    if rule.campaign == ANY:
        return catalogue.campaign[rows] >= 0
    if rule.campaign is not None:
        number = catalogue.campaign_numbers.get(rule.campaign, -2)
        return np.equal(catalogue.campaign[rows], number)
    number = catalogue.category_numbers.get(rule.category or "", -2)
    return np.equal(catalogue.category[rows], number)


def _given(rule: PlacementRule, name: str) -> bool:
    return getattr(rule, name) not in (None, False)


def _alone(rules: Sequence[PlacementRule]) -> Iterator[tuple[int, str]]:
    """Yield the number of each rule that is wrong by itself, and the reason."""
    for number, rule in enumerate(rules):
        targets = [name for name in _TARGETS if _given(rule, name)]
        demands = [name for name in _DEMANDS if getattr(rule, name) is not None]
        if len(targets) != 1:
            yield number, f"needs one of {', '.join(_TARGETS)}; it has {_names(targets)}"
            continue
        fitting = _FITTING[targets[0]]
        if len(demands) != 1 or demands[0] not in fitting:
            yield number, f"{targets[0]} goes with {' or '.join(fitting)}, not {_names(demands)}"
            continue
        if rule.item is not None and rule.item != ANY:
            yield number, f"item is {ANY!r}: a cap holds for every item, each for itself"
        counted = rule.at_least if rule.at_most is None else rule.at_most
        if (counted is None) != (rule.within is None):
            yield number, "within goes with at_least and at_most, and they need it"
        elif rule.within is not None and counted is not None:
            if rule.at_least is not None and counted > rule.within:
                yield number, f"at_least {counted} do not fit within {rule.within} positions"
            if rule.at_most is not None and counted >= rule.within:
                yield number, f"at_most {counted} within {rule.within} positions forbids nothing"


def _together(rules: Sequence[PlacementRule]) -> Iterator[tuple[int, str]]:
    """Yield the number of each rule that contradicts an earlier one, and the contradiction."""
    for (_, one), (number, other) in combinations(enumerate(rules), 2):
        if one.name == other.name:
            yield number, "another rule has this name"
        if not _meet(one, other):
            continue
        if one.pin is not None and other.pin is not None:
            if one.position == other.position:
                yield number, f"{one.name!r} pins another item to position {one.position}"
            if one.pin == other.pin:
                yield number, f"{one.name!r} pins the same item"
        elif one.target == other.target:
            for least, bound in ((one, other), (other, one)):
                if least.at_least is not None and least.at_least > _room(bound, least.within or 0):
                    yield number, f"{one.name!r} and this rule cannot both hold"
    for number, rule in enumerate(rules):
        demanding = [
            earlier
            for earlier in rules[: number + 1]
            if earlier.at_least is not None
            and earlier.category is not None
            and rule.at_least is not None
            and (earlier.within or 0) <= (rule.within or 0)
            and _meet(earlier, rule)
        ]
        total = sum(demand.at_least or 0 for demand in demanding)
        if rule.category is not None and rule.within is not None and total > rule.within:
            yield (
                number,
                f"the categories together demand {total} of the first {rule.within} positions",
            )


def _meet(one: PlacementRule, other: PlacementRule) -> bool:
    """Return whether two rules may hold on the same page."""
    return one.page is None or other.page is None or one.page == other.page


def _room(rule: PlacementRule, within: int) -> int:
    """Return how many items of its target a rule allows within the first positions."""
    if rule.from_position is not None:
        return max(within - rule.from_position + 1, 0)
    if rule.at_most is not None and rule.within is not None:
        return rule.at_most + max(within - rule.within, 0)
    return within


def _names(names: Sequence[str]) -> str:
    return " and ".join(names) or "none"


def _line(node: Any, path: Sequence[str | int]) -> int:
    """Return the line of a place in a YAML document, or of the nearest place above it."""
    for step in path:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
        elif isinstance(node, yaml.MappingNode):
            inner = [value for key, value in node.value if key.value == step]
            node = inner[-1] if inner else node
    return 1 if node is None else int(node.start_mark.line) + 1
