"""Definitions of features, sequences and joins, and their form in files.

A feature is an aggregate of one entity's events, mostly over a window::

    - {name: views_5m, entity: user, event: view, aggregate: count, group_by: category,
       window: {size: 5m, slide: 1m, decay: 0.8}}

A sequence is a pattern of events of one entity; a join pairs its events with item updates. Windows
are half-open on event time and aligned to the epoch. `reader` reads files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
import yaml

ENTITIES: Final = ("user", "item", "category", "session")
"""Kinds of entity."""

AGGREGATES: Final = (
    *("count", "sum", "mean", "min", "max", "last", "last_n", "last_time"),
    *("distinct", "top_k", "quantile"),
)
"""Functions of a feature."""

MAX_PANES: Final = 1440
"""Most panes in one window."""

DEFAULT_GROUPS: Final = 2000
"""Default of the most groups of an entity."""

DURATION_UNITS: Final = MappingProxyType(
    {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
)
"""Milliseconds in each unit of a duration."""

_COARSE_SLIDES = ((12 * 86_400_000, 86_400_000), (12 * 3_600_000, 3_600_000), (3_600_000, 300_000))
_DEFAULT_SKETCH = {"distinct": "hll", "quantile": "kll"}

Data = dict[str, Any]


@dataclass(frozen=True)
class Window:
    """A tumbling (`slide` = `size`) or hopping window: panes of `slide` each.

    With ``tail="approximate"`` the slide follows from the size (:func:`coarse_slide`), and the
    window reaches from the start of the pane with ``at - size`` to `at`: an exact window and up to
    one slide more.
    """

    size_ms: int  # length, milliseconds
    slide_ms: int  # distance of successive windows, milliseconds; divides `size_ms`
    decay: float = 1.0  # weight of a pane relative to the next newer one, in (0, 1]
    tail: Literal["exact", "approximate"] = "exact"  # whether a whole oldest pane is added

    @property
    def panes(self) -> int:
        """Number of panes."""
        return self.size_ms // self.slide_ms + (self.tail == "approximate")

    @property
    def span_ms(self) -> int:
        """Time from the start of the oldest pane to the end of the newest, milliseconds."""
        return self.panes * self.slide_ms

    def as_data(self) -> Data:
        """Return the window as in ``features.yaml``."""
        size = format_duration(self.size_ms)
        if self.tail == "approximate":
            return {"size": size, "tail": self.tail}
        return {"size": size, "slide": format_duration(self.slide_ms), "decay": self.decay}


@dataclass(frozen=True)
class CumulativeWindow:
    """Events since the start of the present period of `size`; emitted every `step`."""

    size_ms: int  # length of a period, milliseconds; periods are aligned to the epoch
    step_ms: int  # milliseconds between results; divides `size_ms`

    def as_data(self) -> Data:
        """Return the window as in ``features.yaml``."""
        return {"size": format_duration(self.size_ms), "step": format_duration(self.step_ms)}


@dataclass(frozen=True)
class SessionWindow:
    """Events at most `gap` from the next; ends `gap` after the last."""

    gap_ms: int  # longest silence within a session, milliseconds

    def as_data(self) -> Data:
        """Return the window as in ``features.yaml``."""
        return {"gap": format_duration(self.gap_ms)}


@dataclass(frozen=True)
class ForwardDecay:
    """No window: the weight of every event halves each `half_life`.

    At time `at` an event of time t weighs ``2 ** (-(at - t) / half_life)``: exponential decay,
    common to forward and backward decay (Cormode, Shkapenyuk, Srivastava and Xu, "Forward decay",
    ICDE 2009).
    """

    half_life_ms: int  # milliseconds after which the weight of an event halves

    def as_data(self) -> Data:
        """Return the decay as in ``features.yaml``."""
        return {"half_life": format_duration(self.half_life_ms)}


AnyWindow = Window | CumulativeWindow | SessionWindow | ForwardDecay
"""Windows and decay of a feature."""


@dataclass(frozen=True)
class Feature:
    """One feature of one kind of entity."""

    name: str  # snake_case, unique
    entity: str  # kind of entity, one of :data:`ENTITIES`
    events: tuple[str, ...]  # event types that count
    aggregate: str  # one of :data:`AGGREGATES`
    of: str | None = None  # source of the value, such as `item_id` or `properties.<name>`
    group_by: str | None = None  # source of a group; each group has its own value
    n: int | None = None  # number of values of `last_n` and `top_k`
    q: float | None = None  # quantile, in [0, 1]
    sketch: str | None = None  # `hll` or `exact` for `distinct`, `kll` for `quantile`
    max_groups: int = DEFAULT_GROUPS  # most groups, or different values, of an entity
    window: AnyWindow | None = None  # events that count, by their age

    def __post_init__(self) -> None:
        """Set the default sketch."""
        if self.sketch is None and self.aggregate in _DEFAULT_SKETCH:
            object.__setattr__(self, "sketch", _DEFAULT_SKETCH[self.aggregate])

    @property
    def bounds_groups(self) -> bool:
        """Whether `max_groups` applies: there are groups, or values are distinguished."""
        return self.group_by is not None or self.aggregate == "top_k" or self.sketch == "exact"

    def as_data(self) -> Data:
        """Return the feature as in ``features.yaml``."""
        data: Data = {
            "name": self.name,
            "entity": self.entity,
            "event": list(self.events),
            "aggregate": self.aggregate,
        }
        data |= _written(self, "of", "group_by", "n", "q", "sketch")
        if self.bounds_groups:
            data["max_groups"] = self.max_groups
        if self.window is not None:
            data["window"] = self.window.as_data()
            if self.aggregate == "last_n":
                data["window"] = {"size": data["window"]["size"]}
        return data


@dataclass(frozen=True)
class Step:
    """One step of a sequence."""

    events: tuple[str, ...]  # event types that match; empty: any type
    optional: bool = False  # whether it may be missing
    least: int = 1  # least number of repetitions
    most: int | None = 1  # most repetitions; None: no limit
    negated: bool = False  # no such event may come between the steps around it
    for_ms: int | None = None  # silence of a negated last step; None: the rest of `within`

    def as_data(self) -> Any:
        """Return the step as in ``features.yaml``."""
        events: Any = list(self.events) if self.events else "any"
        if len(self.events) == 1:
            events = self.events[0]
        if self.negated:
            until = {} if self.for_ms is None else {"for": format_duration(self.for_ms)}
            return {"not": events, **until}
        data: Data = {"event": events}
        if self.optional:
            data["optional"] = True
        if (self.least, self.most) != (1, 1):
            data["times"] = self.least if self.least == self.most else [self.least, self.most]
        return events if len(data) == 1 else data


@dataclass(frozen=True)
class Sequence:
    """A pattern of events of one entity, in the order of event time."""

    name: str  # snake_case, unique
    entity: str  # kind of entity of the events, one of :data:`ENTITIES`
    steps: tuple[Step, ...]
    within_ms: int  # longest time from the first event to the last, milliseconds
    # `strict`: no other event of a type named in the sequence comes between; `relaxed`: others are
    # skipped
    contiguity: Literal["strict", "relaxed"] = "relaxed"
    skip: Literal["past_last", "to_next"] = "past_last"  # where to continue after a match
    same: str | None = None  # source of a value that all events share
    emit: str | None = None  # a match emits an event of type `x.<emit>`; None: it emits none

    def as_data(self) -> Data:
        """Return the sequence as in ``features.yaml``."""
        data: Data = {
            "name": self.name,
            "entity": self.entity,
            "sequence": [step.as_data() for step in self.steps],
            "within": format_duration(self.within_ms),
            "contiguity": self.contiguity,
            "skip": self.skip,
        }
        return data | _written(self, "same", "emit")


@dataclass(frozen=True)
class Join:
    """Pairs of an event and an update of its item, at most `within` apart."""

    name: str  # snake_case, unique
    entity: str  # kind of entity of the events, one of :data:`ENTITIES`
    events: tuple[str, ...]  # event types that are paired
    within_ms: int  # longest time between the event and the update, in either order, milliseconds
    emit: str | None = None  # a pair emits an event of type `x.<emit>`; None: it emits none

    def as_data(self) -> Data:
        """Return the join as in ``features.yaml``."""
        data: Data = {
            "name": self.name,
            "entity": self.entity,
            "join": {
                "event": list(self.events),
                "with": "item_updates",
                "within": format_duration(self.within_ms),
            },
        }
        return data | _written(self, "emit")


def _written(definition: Definition, *keys: str) -> Data:
    """Return those fields of `keys` that are not None."""
    values = {key: getattr(definition, key) for key in keys}
    return {key: value for key, value in values.items() if value is not None}


Definition = Feature | Sequence | Join
"""One element of a file of definitions."""


@dataclass(frozen=True)
class Definitions:
    """A set of features, sequences and joins."""

    # All in the order written.
    features: tuple[Feature, ...]
    sequences: tuple[Sequence, ...] = ()
    joins: tuple[Join, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)  # numbers
    fingerprint: str = field(init=False)  # hash of the canonical form, equal for equal definitions

    def __post_init__(self) -> None:
        """Compute the fingerprint."""
        canonical = msgspec.json.encode([definition.as_data() for definition in self.all])
        object.__setattr__(self, "fingerprint", hashlib.sha256(canonical).hexdigest())

    @property
    def all(self) -> tuple[Definition, ...]:
        """All definitions: features, then sequences, then joins."""
        return (*self.features, *self.sequences, *self.joins)

    def of_entity(self, entity: str) -> tuple[Feature, ...]:
        """Return the features of a kind of entity."""
        return tuple(feature for feature in self.features if feature.entity == entity)


DAY: Final = "day"
"""Source of the UTC day of an event, such as ``2026-12-01``."""

CUSTOM_PREFIX = "x."
CUSTOM_EVENTS = f"{CUSTOM_PREFIX}*"
"""Event type of a feature that stands for all types of a customer's own but emitted ones."""

STAGE_EVENTS: Final = (
    "x.stage_known",
    "x.stage_new",
    "x.stage_active",
    "x.stage_lapsing",
    "x.stage_lost",
)
"""Types of the events that a platform writes about the stage of a user; not part of ``x.*``."""


def emitted_types(definitions: Definitions) -> dict[str, str]:
    """Return the action types of sequences and joins that emit actions, by name."""
    emits = {sequence.name: sequence.emit for sequence in definitions.sequences}
    emits |= {join.name: join.emit for join in definitions.joins}
    return {name: f"x.{emit}" for name, emit in emits.items() if emit is not None}


def endless_action(definitions: Definitions) -> tuple[str, str] | None:
    """Find the first definition whose action leads to itself, and the error message."""
    emits = emitted_types(definitions)
    takes: dict[str, set[str]] = {join.name: set(join.events) for join in definitions.joins}
    for sequence in definitions.sequences:
        positive = [step for step in sequence.steps if not step.negated]
        every = any(not step.events for step in positive)
        named = {type_ for step in positive for type_ in step.events}
        takes[sequence.name] = set(emits.values()) if every else named
    causes = {
        name: [other for other in emits if type_ in takes[other]] for name, type_ in emits.items()
    }
    for name in emits:
        reached, waiting = set[str](), list(causes[name])
        while waiting:
            follower = waiting.pop()
            if follower not in reached:
                reached.add(follower)
                waiting += causes[follower]
        if name in reached:
            return name, (
                f"emit: the action {emits[name]} of {name} leads to {name} again, without end: "
                "emit another type, or name the types of the steps instead of any"
            )
    return None


def dump_definitions(definitions: Definitions) -> str:
    """Write definitions as YAML, one a line; reading them gives equal definitions."""
    lines = (
        yaml.safe_dump(
            definition.as_data(), default_flow_style=True, sort_keys=False, width=float("inf")
        ).strip()
        for definition in definitions.all
    )
    return "".join(f"- {line}\n" for line in lines)


def coarse_slide(size_ms: int) -> int:
    """Return the slide of a window with an approximate tail, milliseconds.

    A day from twelve days on, an hour from twelve hours on, five minutes from an hour on, else a
    minute.
    """
    return next((slide for size, slide in _COARSE_SLIDES if size_ms >= size), 60_000)


def format_duration(milliseconds: int) -> str:
    """Write a duration in its largest whole unit: 300000 is ``5m``."""
    unit = next(
        unit for unit in reversed(DURATION_UNITS) if milliseconds % DURATION_UNITS[unit] == 0
    )
    return f"{milliseconds // DURATION_UNITS[unit]}{unit}"
