"""Read `statistics.yaml`: counted events, keys, panes and budgets."""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from tactful.errors import ConfigError
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.errors import ParameterError
from tactful_privacy.ledger.amounts import Amounts
from tactful_privacy.ledger.budget import ANY, DEFAULT_PURPOSE, DEFAULT_TENANT, Budget
from tactful_privacy.ledger.statistic import (
    FOUND_KEYS,
    GAUSSIAN_PANES,
    GAUSSIAN_TOTALS,
    RUNNING_TOTALS,
    CapChoice,
    Statistic,
)
from tactful_privacy.ledger.statistic import PANES as KIND_OF_PANES
from tactful_streaming.contract.log_entries import Event, Item

PANES = {"1m": 60_000, "5m": 300_000, "1h": 3_600_000, "1d": 86_400_000}

EVERYTHING = "all"
"""The only key of statistics counted by `any`."""

Exact = Annotated[str, Meta(pattern=r"^\d+(\.\d+|/0*[1-9]\d*)?$")]

_OF_EVENT = "event."

_NumberSource = Annotated[str, Meta(pattern=r"^(price|properties\.\w+|event\.\w+)$")]


class CapChoiceDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Choice of each day's cap from the contributions of the day before."""

    candidates: tuple[int, ...]  # caps to choose from, rising; the last is the statistic's `cap`
    epsilon: Exact  # cost of the choice for one user and UTC day, on top, exact, as text
    quantile: Exact = "9/10"  # share of the users whose contributions should all count


class BudgetDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit for one user and UTC day, or several in a row, beside the overall limit."""

    epsilon: Exact  # the limit, exact, as text
    delta: Exact = "0"  # the limit on delta
    tenant: str = ANY  # tenant of the users; all unless given
    purpose: str = ANY  # purpose of the statistics; all unless given
    composition: Literal["basic", "zcdp"] = "basic"  # of losses: `basic` or `zcdp`
    days: int = 1  # number of UTC days in a row for which the limit holds


class StatisticDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published count, sum or mean, as written in `statistics.yaml`."""

    name: str  # of the statistic
    event: str | tuple[str, ...]  # event type that is counted, or several
    # source of the key: `category`, `item_id`, `price` or `properties.<name>` of the item;
    # `event.<name>`, a property of the event; `type`, its type; or `any` for a single total
    by: Annotated[
        str, Meta(pattern=r"^(any|type|category|item_id|price|properties\.\w+|event\.\w+)$")
    ]
    keys: tuple[str, ...] = ()  # the public list of keys; other values are not counted
    # instead of keys: a key is shown from a noisy number of users on, such that the key of a single
    # user is shown with at most this probability; exact, as text
    threshold_delta: Exact | None = None
    # instead of keys: rising bounds of the buckets of a number, for quantiles
    edges: tuple[float, ...] = ()
    # `events`, or `users`: each user once for a pane and key
    count: Literal["events", "users"] = "events"
    # `count`; `sum` or `mean` of the numbers `of`; `distinct_users`, the same as `count: users`
    aggregate: Literal["count", "sum", "mean", "distinct_users"] = "count"
    # source of the number of a sum or mean: `price` or `properties.<name>` of the item, or
    # `event.<name>`; events without a number are not counted
    of: _NumberSource | None = None
    bounds: tuple[float, float] | None = None  # public range of these numbers, which clamps them
    resolution: Exact = "1"  # public step to which they are rounded; the bounds are multiples of it
    # length of a pane: 1m, 5m, 1h, the length unless given, or 1d
    pane: str | None = None
    # instead of pane: a UTC day, a week from Monday, or a calendar month
    period: Literal["day", "week", "month"] | None = None
    cap: int  # most contributions of one user and UTC day
    hour_cap: int | None = None  # most contributions of one user and hour; `cap` unless given
    # choice of each day's cap, at most `cap`; fixed unless given
    cap_choice: CapChoiceDefinition | None = None
    tenant: str = DEFAULT_TENANT  # tenant of the counted users
    purpose: str = DEFAULT_PURPOSE  # of the statistic; budgets can be of a tenant and a purpose
    epsilon: Exact = "1"  # privacy loss of one user and UTC day, exact, as text
    # permits Gaussian noise, which has this delta for each of the panes and periods; exact, as text
    delta: Exact | None = None
    # with delta: `laplace`, `gaussian`, or `auto`: the one with the smaller 95 % interval
    noise: Literal["auto", "laplace", "gaussian"] = "auto"
    # longer periods that are released as well, and the epsilon of each, on top
    periods: dict[str, Exact] = {}
    # epsilon of the totals since midnight after each pane, on top; none without
    running_total: Exact | None = None
    running_total_delta: Exact | None = None  # with it, totals have Gaussian noise; on top, too
    title: str = ""  # description in words
    trending: bool = False  # whether its rising keys are recommended; only for categories and items

    @property
    def catalogue(self) -> tuple[str, ...]:
        """Every key that is released; none where keys are discovered."""
        if self.by == "any":
            return (EVERYTHING,)
        if not self.edges:
            return self.keys
        return tuple(_bucket(self.edges, index) for index in range(len(self.edges) + 1))

    @property
    def length(self) -> str:
        """Length of the counted panes, a key of `PANES`; periods are made of days."""
        return "1d" if self.period else self.pane or "1h"

    @property
    def calendar(self) -> Literal["week", "month"] | None:
        """The released week or month; None where panes are released."""
        return None if self.period == "day" else self.period

    @property
    def counts_users(self) -> bool:
        """Whether each user counts once for a pane and key."""
        return self.count == "users" or self.aggregate == "distinct_users"

    @property
    def amounts(self) -> Amounts | None:
        """Range of the numbers, in steps; None unless they are added up."""
        if self.aggregate != "sum" or self.bounds is None:
            return None
        low, high = _steps(self.bounds, self.resolution)
        return Amounts(int(low), int(high), Fraction(self.resolution))

    def parts(self) -> tuple[StatisticDefinition, ...]:
        """Return the definitions that are released: itself, or sum and count of a mean.

        A mean is computed from both. Each has half of its epsilon and counts the same events.
        """
        if self.aggregate != "mean":
            return (self,)
        half = str(Fraction(self.epsilon) / 2)
        return tuple(
            msgspec.structs.replace(self, name=name, aggregate=part, epsilon=half)
            for name, part in zip(self.names_of_parts, ("sum", "count"), strict=True)
        )

    @property
    def names_of_parts(self) -> tuple[str, str]:
        """Names of the sum and of the count of a mean."""
        return f"{self.name}.sum", f"{self.name}.count"

    def statistics(self) -> list[Statistic]:
        """Return the released statistics: panes first, then longer periods and totals."""
        discovered, choice = self.threshold_delta is not None, self.cap_choice
        panes = Statistic(
            name=self.name,
            keys=self.catalogue,
            pane_ms=PANES[self.length],
            cap=self.cap,
            epsilon=Fraction(self.epsilon),
            kind=FOUND_KEYS if discovered else KIND_OF_PANES,
            delta=Fraction(self.threshold_delta) if self.threshold_delta is not None else None,
            cell_cap=1 if self.counts_users else None,
            hour_cap=self.hour_cap,
            tenant=self.tenant,
            purpose=self.purpose,
            cap_choice=None
            if choice is None
            else CapChoice(choice.candidates, Fraction(choice.epsilon), Fraction(choice.quantile)),
            amounts=self.amounts,
            period=self.calendar,
        )

        def another(suffix: str, epsilon: str, pane: str, **changes: Any) -> Statistic:
            return replace(
                panes,
                name=f"{self.name}.{suffix}",
                pane_ms=PANES[pane],
                epsilon=Fraction(epsilon),
                cap_choice=None,
                cap_of=None if panes.cap_choice is None else panes.name,
                **changes,
            )

        statistics = [self._with_noise(panes)]
        statistics += [
            self._with_noise(another(period, epsilon, period))
            for period, epsilon in self.periods.items()
        ]
        if self.running_total is not None:
            delta = self.running_total_delta
            kind = RUNNING_TOTALS if delta is None else GAUSSIAN_TOTALS
            bound = None if delta is None else Fraction(delta)
            total = another("total", self.running_total, self.length, kind=kind, delta=bound)
            statistics.append(total)
        return statistics

    def _with_noise(self, panes: Statistic) -> Statistic:
        """Return the panes with Gaussian noise if the definition wants it, or it is narrower."""
        if self.delta is None or self.noise == "laplace":
            return panes
        try:
            gaussian = replace(panes, kind=GAUSSIAN_PANES, delta=Fraction(self.delta))
            if self.noise == "gaussian":
                return gaussian
            narrower = gaussian.mechanism().interval() < panes.mechanism().interval()
            return gaussian if narrower else panes
        except ParameterError:
            if self.noise == "gaussian":
                raise
            return panes

    @property
    def reads_items(self) -> bool:
        """Whether the description of an item decides if an event counts.

        Servers that read a log in several partitions may learn of an item at different moments.
        """
        fields = (self.by, self.of or "any")
        return any(it not in ("any", "type") and not it.startswith(_OF_EVENT) for it in fields)

    def key(self, event: Event, item: Item | None) -> str | None:
        """Return the key of an event; None if it is not counted."""
        counted = self.event
        if event.type != counted if isinstance(counted, str) else event.type not in counted:
            return None
        if self.of is not None and self.number(event, item) is None:
            return None
        value = _value(self.by, event, item)
        if not self.edges:
            return value if isinstance(value, str) else None
        number = _number(value)
        return (
            None if number is None else _bucket(self.edges, bisect.bisect_right(self.edges, number))
        )

    def number(self, event: Event, item: Item | None) -> float | None:
        """Return the number of an event that a sum adds; None without one."""
        return None if self.of is None else _number(_value(self.of, event, item))


class StatisticsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `statistics.yaml`."""

    daily_epsilon: Exact  # budget of one user and UTC day over all statistics, exact, as text
    statistics: tuple[StatisticDefinition, ...]  # the published statistics
    daily_delta: Exact = "0"  # the same for delta, for totals with Gaussian noise
    budgets: tuple[BudgetDefinition, ...] = ()  # further limits, by tenant and purpose

    @property
    def released(self) -> tuple[StatisticDefinition, ...]:
        """The released definitions: sum and count in the place of a mean."""
        return tuple(part for definition in self.statistics for part in definition.parts())

    def all_budgets(self) -> list[Budget]:
        """Return the overall budget of one user and UTC day, and the further ones."""
        whole = Budget(Fraction(self.daily_epsilon), Fraction(self.daily_delta))
        return [whole, *(Budget(**msgspec.structs.asdict(budget)) for budget in self.budgets)]


def load_statistics(path: Path) -> StatisticsFile:
    """Read `statistics.yaml`; a `ConfigError` names the file and the wrong entry."""
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
        file = msgspec.convert(document, type=StatisticsFile)
    except (OSError, yaml.YAMLError, ValueError, *DECODE_ERRORS) as error:
        raise ConfigError(f"{path}: {error}") from error
    for definition in file.statistics:
        if (problem := _problem(definition)) is not None:
            raise ConfigError(f"{path}: {definition.name}: {problem}")
    names = [
        name
        for definition in file.statistics
        for name in (
            definition.name,
            *(definition.names_of_parts if definition.aggregate == "mean" else ()),
            *(f"{definition.name}.{it}" for it in definition.periods),
            *([f"{definition.name}.total"] if definition.running_total is not None else []),
        )
    ]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"{path}: these names are given twice: {', '.join(repeated)}")
    return file


def _problem(definition: StatisticDefinition) -> str | None:
    """Return the first problem of a definition by itself; None if it is valid."""
    if definition.pane is not None and definition.period is not None:
        return "give pane or period, not both"
    for pane in (definition.length, *definition.periods):
        if pane not in PANES:
            return f"pane must be one of {', '.join(PANES)}, not {pane!r}"
    for period in definition.periods:
        if PANES[period] <= PANES[definition.length]:
            return f"the period {period} must be longer than the pane, {definition.length}"
    if definition.calendar and (problem := _calendar_problem(definition)):
        return problem
    if definition.edges:
        rising = all(low < high for low, high in itertools.pairwise(definition.edges))
        if definition.keys or not rising or definition.by in ("any", "type", "category", "item_id"):
            return "edges are rising numbers, without keys, of a price or property"
    elif definition.by == "price":
        return "a statistic by price needs edges"
    if definition.threshold_delta is not None and (problem := _threshold_problem(definition)):
        return problem
    if problem := _aggregate_problem(definition) or _noise_problem(definition):
        return problem
    if definition.running_total_delta is not None and definition.running_total is None:
        return "running_total_delta needs running_total, its epsilon"
    if definition.cap_choice and definition.running_total_delta is not None:
        return "with cap_choice there is no running_total_delta: Gaussian totals need a fixed cap"
    if definition.by == "any" and definition.keys:
        return "a statistic by any has no keys"
    if definition.trending and definition.by not in ("category", "item_id"):
        return f"trending needs a statistic by category or item_id, not by {definition.by}"
    return None


def _threshold_problem(definition: StatisticDefinition) -> str | None:
    """Return the first problem of a definition whose keys are discovered."""
    if definition.keys or definition.edges or definition.by in ("any", "price"):
        return "with threshold_delta there are no keys and no edges: keys are discovered"
    if not definition.counts_users or definition.length != "1d":
        return "with threshold_delta users of a day are counted: give count: users and pane: 1d"
    if definition.hour_cap or definition.cap_choice or definition.trending:
        return "with threshold_delta there is no hour_cap, no cap_choice and no trending"
    if definition.periods or definition.running_total is not None:
        return "with threshold_delta there are no periods and no running_total"
    return None


def _calendar_problem(definition: StatisticDefinition) -> str | None:
    """Return the first problem of a week or month."""
    period = definition.period
    if definition.threshold_delta is not None or definition.cap_choice is not None:
        return f"with period: {period} there is no threshold_delta and no cap_choice"
    if definition.running_total is not None or definition.trending:
        return f"with period: {period} there is no running_total and no trending: they need days"
    return None


def _aggregate_problem(definition: StatisticDefinition) -> str | None:
    """Return the first problem of what a definition adds up."""
    aggregate, further = definition.aggregate, definition.periods or definition.running_total
    if aggregate in ("sum", "mean"):
        if definition.of is None or definition.bounds is None:
            return (
                f"a {aggregate} needs of, its number, and bounds, the public range of this number"
            )
        if definition.count == "users":
            return f"a {aggregate} adds up events: leave out count: users"
        if not _fit_bounds(definition.bounds, definition.resolution):
            return "bounds are two rising numbers, multiples of the resolution, which is above 0"
        if definition.running_total is not None:
            return "a running_total counts events: add the panes of a sum instead"
        if aggregate == "mean" and (further or definition.cap_choice or definition.delta):
            return "a mean has no periods, cap_choice or delta: define its sum and count instead"
    elif definition.of is not None or definition.bounds is not None:
        return "of and bounds are for aggregate: sum and mean"
    if aggregate == "distinct_users" and further:
        return (
            "users of a longer period are not the sum of those of panes: define another statistic"
            " with a longer pane instead of periods or running_total"
        )
    if definition.trending and (aggregate != "count" or definition.delta is not None):
        return "trending needs counts with Laplace noise: leave out aggregate and delta"
    return None


def _noise_problem(definition: StatisticDefinition) -> str | None:
    """Return the first problem of the noise of panes."""
    if definition.delta is None:
        return "noise: gaussian needs a delta" if definition.noise == "gaussian" else None
    if not 0 < Fraction(definition.delta) < 1:
        return f"delta is {definition.delta}: it must lie between 0 and 1"
    if definition.noise == "laplace":
        return "noise: laplace has no delta"
    if definition.threshold_delta is not None or definition.cap_choice is not None:
        return "with threshold_delta or cap_choice there is no delta: the noise is Laplace's"
    return None


def _fit_bounds(bounds: tuple[float, float], resolution: str) -> bool:
    if not Fraction(resolution) or not all(map(math.isfinite, bounds)):
        return False
    low, high = _steps(bounds, resolution)
    return low < high and low.denominator == high.denominator == 1


def _steps(bounds: tuple[float, float], resolution: str) -> tuple[Fraction, Fraction]:
    """Return the bounds in steps; a float is the shortest decimal that stands for it."""
    step = Fraction(resolution)
    return Fraction(str(bounds[0])) / step, Fraction(str(bounds[1])) / step


def _number(value: Any) -> float | None:
    """Return a value that is a number; None for others, also for NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return value


def _bucket(edges: tuple[float, ...], index: int) -> str:
    if index == 0:
        return f"below {edges[0]:g}"
    if index == len(edges):
        return f"{edges[-1]:g} or more"
    return f"{edges[index - 1]:g} to {edges[index]:g}"


def _value(by: str, event: Event, item: Item | None) -> Any:
    if by == "any":
        return EVERYTHING
    if by == "type":
        return event.type
    if by.startswith(_OF_EVENT):
        return event.properties.get(by.removeprefix(_OF_EVENT))
    if item is None:
        return None
    if by in ("category", "item_id", "price"):
        return getattr(item, by)
    return item.properties.get(by.removeprefix("properties."))
