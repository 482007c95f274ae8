"""Read `statistics.yaml`: counted events, keys, panes and budgets."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from tactful.errors import ConfigError
from tactful_privacy.ledger.budget import ANY, DEFAULT_PURPOSE, DEFAULT_TENANT, Budget
from tactful_privacy.ledger.statistic import (
    FOUND_KEYS,
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
    """A published count, as written in `statistics.yaml`."""

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
    pane: str = "1h"  # length of a pane: 1m, 5m, 1h or 1d
    cap: int  # most contributions of one user and UTC day
    hour_cap: int | None = None  # most contributions of one user and hour; `cap` unless given
    # choice of each day's cap, at most `cap`; fixed unless given
    cap_choice: CapChoiceDefinition | None = None
    tenant: str = DEFAULT_TENANT  # tenant of the counted users
    purpose: str = DEFAULT_PURPOSE  # of the statistic; budgets can be of a tenant and a purpose
    epsilon: Exact = "1"  # privacy loss of one user and UTC day, exact, as text
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

    def statistics(self) -> list[Statistic]:
        """Return the released statistics: panes first, then longer periods and totals."""
        discovered, choice = self.threshold_delta is not None, self.cap_choice
        panes = Statistic(
            name=self.name,
            keys=self.catalogue,
            pane_ms=PANES[self.pane],
            cap=self.cap,
            epsilon=Fraction(self.epsilon),
            kind=FOUND_KEYS if discovered else KIND_OF_PANES,
            delta=Fraction(self.threshold_delta) if self.threshold_delta is not None else None,
            cell_cap=1 if self.count == "users" else None,
            hour_cap=self.hour_cap,
            tenant=self.tenant,
            purpose=self.purpose,
            cap_choice=None
            if choice is None
            else CapChoice(choice.candidates, Fraction(choice.epsilon), Fraction(choice.quantile)),
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

        statistics = [panes]
        statistics += [another(period, epsilon, period) for period, epsilon in self.periods.items()]
        if self.running_total is not None:
            delta = self.running_total_delta
            kind = RUNNING_TOTALS if delta is None else GAUSSIAN_TOTALS
            bound = None if delta is None else Fraction(delta)
            total = another("total", self.running_total, self.pane, kind=kind, delta=bound)
            statistics.append(total)
        return statistics

    def key(self, event: Event, item: Item | None) -> str | None:
        """Return the key of an event; None if it is not counted."""
        counted = self.event
        if event.type != counted if isinstance(counted, str) else event.type not in counted:
            return None
        value = _value(self.by, event, item)
        if not self.edges:
            return value if isinstance(value, str) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            return None
        return _bucket(self.edges, bisect.bisect_right(self.edges, value))


class StatisticsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `statistics.yaml`."""

    daily_epsilon: Exact  # budget of one user and UTC day over all statistics, exact, as text
    statistics: tuple[StatisticDefinition, ...]  # the published statistics
    daily_delta: Exact = "0"  # the same for delta, for totals with Gaussian noise
    budgets: tuple[BudgetDefinition, ...] = ()  # further limits, by tenant and purpose

    def all_budgets(self) -> list[Budget]:
        """Return the overall budget of one user and UTC day, and the further ones."""
        whole = Budget(Fraction(self.daily_epsilon), Fraction(self.daily_delta))
        return [whole, *(Budget(**msgspec.structs.asdict(budget)) for budget in self.budgets)]


def load_statistics(path: Path) -> StatisticsFile:
    """Read `statistics.yaml`; a `ConfigError` names the file and the wrong entry."""
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
        file = msgspec.convert(document, type=StatisticsFile)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for definition in file.statistics:
        if (problem := _problem(definition)) is not None:
            raise ConfigError(f"{path}: {definition.name}: {problem}")
    names = [
        name
        for definition in file.statistics
        for name in (
            definition.name,
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
    for pane in (definition.pane, *definition.periods):
        if pane not in PANES:
            return f"pane must be one of {', '.join(PANES)}, not {pane!r}"
    for period in definition.periods:
        if PANES[period] <= PANES[definition.pane]:
            return f"the period {period} must be longer than the pane, {definition.pane}"
    if definition.edges:
        rising = all(low < high for low, high in itertools.pairwise(definition.edges))
        if definition.keys or not rising or definition.by in ("any", "type", "category", "item_id"):
            return "edges are rising numbers, without keys, of a price or property"
    elif definition.by == "price":
        return "a statistic by price needs edges"
    if definition.threshold_delta is not None and (problem := _threshold_problem(definition)):
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
    if definition.count != "users" or definition.pane != "1d":
        return "with threshold_delta users of a day are counted: give count: users and pane: 1d"
    if definition.hour_cap or definition.cap_choice or definition.trending:
        return "with threshold_delta there is no hour_cap, no cap_choice and no trending"
    if definition.periods or definition.running_total is not None:
        return "with threshold_delta there are no periods and no running_total"
    return None


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
