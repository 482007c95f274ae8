"""Private statistics of the platform: counted in the engine, released through the ledger."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from tactful.config.ledger_location import ledger_location, named
from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful.recall.trending import Trends, TrendSource
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.statistics import (
    CONCLUSIONS,
    Conclusion,
    ConclusionQuery,
    StatisticCell,
    StatisticInfo,
    StatisticsIndex,
    StatisticsPage,
)
from tactful.schemas.subjects.privacy import PrivacyLedger
from tactful.statistics.conclusions import MAX_CELLS, MAX_PANES, conclude
from tactful.statistics.counter import (
    ALLOWANCE_MS,
    CHANGES,
    CONSUMER,
    NOT_BEFORE,
    StatisticsCounter,
    without_people,
)
from tactful.statistics.definitions import PANES, StatisticDefinition, load_statistics
from tactful.statistics.ledger_view import day_of, report_month
from tactful.util.clock import now_ms
from tactful_privacy.analysis.conclusions import mean_released
from tactful_privacy.counting.released import (
    CONFIDENCE,
    ReleasedPage,
    ReleasedPane,
    delta_of,
    method_of,
    read_released,
    released_panes,
)
from tactful_privacy.durable_files import create_file
from tactful_privacy.errors import LedgerError, PrivacyError, UnknownStatisticError
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.query import Query
from tactful_privacy.ledger.statistic import DAY_MS, UNIT, Statistic
from tactful_privacy.ledger.statistic import PANES as KIND_OF_PANES

SECRET = "statistics.secret"
_SHOWN_AFTER_MS = 15_000
"""Longer than an idle server waits with a commit, so that no user's event decides when."""


class PrivateStatistics:
    """Answers queries for the released numbers of the published statistics."""

    def __init__(self, counter: StatisticsCounter) -> None:
        """Answer queries about the statistics of a counter."""
        self.counter = counter
        self._definitions = counter.definitions
        self._ledger = counter.ledger
        self._statistics: dict[str, Statistic] = {
            it.name: it for definition in self._definitions for it in self._released(definition)
        }
        self._means = {definition.name: definition for definition in counter.means}

    @property
    def counts(self) -> Collection[StatisticDefinition]:
        """Definitions of the counts and sums, without the means."""
        return tuple(self._definitions)

    def index(self) -> StatisticsIndex:
        """Return what is published."""
        return StatisticsIndex(
            statistics=[
                *(
                    StatisticInfo(title=definition.title, **_described(statistic))
                    for definition in self._definitions
                    for statistic in self._released(definition)
                ),
                *(
                    StatisticInfo(title=definition.title, **self._described_mean(definition))
                    for definition in self._means.values()
                ),
            ]
        )

    def page(
        self, name: str, cursor: str | None, limit: int, since: int | None, until: int | None
    ) -> StatisticsPage:
        """Return one page of released panes that start in [since, until), oldest first.

        By the wall clock, a pane shows 15 s after it may be closed. It is closed by the next
        commit, which comes at once when there are events and later when there are none. An unknown
        statistic raises KeyError, a wrong cursor ValueError.
        """
        if (mean := self._means.get(name)) is not None:
            return self._page_of_means(mean, cursor, limit, since, until)
        page = self._read(name, cursor, limit, since, until)
        statistic = self._statistics[name]
        return StatisticsPage(
            **_described(statistic),
            delta=float(delta_of(statistic)),
            confidence=float(CONFIDENCE),
            cells=[
                StatisticCell(
                    pane_start=pane.start,
                    counted_from=pane.counted_from,
                    key=key,
                    value=pane.scaled(value),
                    low=pane.scaled(value - pane.half_width),
                    high=pane.scaled(value + pane.half_width),
                )
                for pane in page.panes
                for key, value in pane.values.items()
            ],
            next_cursor=page.cursor,
        )

    def _read(
        self, name: str, cursor: str | None, limit: int, since: int | None, until: int | None
    ) -> ReleasedPage:
        """Read a page of released and shown panes."""
        statistic = self._statistics.get(name)
        if statistic is None:
            raise KeyError(name)
        if (shown := self._shown_before(statistic)) is not None:
            until = shown if until is None else min(until, shown)
        try:
            return read_released(
                self._ledger,
                name,
                start=since,
                end=until,
                cursor=cursor,
                limit=max(1, limit // len(statistic.keys)) if statistic.keys else 1,
            )
        except UnknownStatisticError as error:
            raise KeyError(name) from error

    def _page_of_means(
        self,
        mean: StatisticDefinition,
        cursor: str | None,
        limit: int,
        since: int | None,
        until: int | None,
    ) -> StatisticsPage:
        """Return the quotients of a page of sums and counts, without those that say nothing."""
        sums, counts = (
            self._read(part, cursor, limit, since, until) for part in mean.names_of_parts
        )
        counts_at = {pane.start: pane for pane in counts.panes}
        pairs = [(pane, counts_at[pane.start]) for pane in sums.panes if pane.start in counts_at]
        cells = [
            StatisticCell(
                pane_start=total.start,
                counted_from=total.counted_from,
                key=key,
                value=quotient.value,
                low=quotient.low,
                high=quotient.high,
            )
            for total, count in pairs
            for key in total.values
            if (quotient := mean_released([total], [count], key)) is not None
        ]
        parts = [self._statistics[part] for part in mean.names_of_parts]
        return StatisticsPage(
            **self._described_mean(mean),
            delta=float(sum(delta_of(part) for part in parts)),
            confidence=float(CONFIDENCE),
            cells=cells,
            # A sum whose count is not released yet is read again.
            next_cursor=sums.cursor if len(pairs) == len(sums.panes) else None,
        )

    def _described_mean(self, mean: StatisticDefinition) -> dict[str, Any]:
        total, count = mean.names_of_parts
        return _described(self._statistics[total]) | {
            "name": mean.name,
            "epsilon": float(Fraction(mean.epsilon)),
            "kind": "means",
            "method": f"quotient of {total} and {count}",
        }

    def conclude(self, name: str, conclusion: str, query: ConclusionQuery) -> Conclusion:
        """Draw a conclusion from the released and shown panes of a span.

        An unknown statistic or conclusion raises KeyError, one that cannot be drawn ValueError.
        """
        known = name in self._statistics or name in self._means
        if not known or conclusion not in CONCLUSIONS:
            raise KeyError(name)
        since, until = to_milliseconds(query.since), to_milliseconds(query.until)
        if (mean := self._means.get(name)) is not None:
            if conclusion != "mean":
                raise ValueError(
                    f"{name!r} publishes means, which have no {conclusion}: ask about"
                    f" {' or '.join(mean.names_of_parts)}"
                )
            parts = [self._panes(part, since, until) for part in mean.names_of_parts]
            described = self._described_mean(mean)
            return replace(
                conclude(conclusion, parts, query),
                name=name,
                epsilon=described["epsilon"],
                method=described["method"],
            )
        if conclusion != "consistent":
            return conclude(conclusion, [self._panes(name, since, until)], query)
        periods = [it for it in self.counter.further.get(name, ()) if it.kind == KIND_OF_PANES]
        levels = [name, *(it.name for it in sorted(periods, key=lambda it: it.pane_ms))]
        longest = self._panes(levels[-1], since, until)
        span = (longest[0].start, longest[-1].end) if longest else (since, since)
        return conclude(conclusion, [self._panes(level, *span) for level in levels], query)

    def _released(self, definition: StatisticDefinition) -> list[Statistic]:
        return [self.counter.bases[definition.name], *self.counter.further[definition.name]]

    def _shown_before(self, statistic: Statistic) -> int | None:
        counter = self.counter
        return shown_before(statistic, counter.now, counter.allowance) if counter.wall else None

    def _panes(self, name: str, since: int, until: int) -> list[ReleasedPane]:
        """Return the released and shown panes that start in [since, until), oldest first."""
        statistic = self._statistics[name]
        if (shown := self._shown_before(statistic)) is not None:
            until = min(until, shown)
        if until <= since:
            return []
        # Small pages, so that little more than the limit is read before it is noticed.
        limit = max(1, min(100, MAX_CELLS // (len(statistic.keys) or 1)))
        panes: list[ReleasedPane] = []
        for pane in released_panes(self._ledger, name, start=since, end=until, limit=limit):
            panes.append(pane)
            if len(panes) > MAX_PANES or len(panes) * len(statistic.keys) > MAX_CELLS:
                raise ValueError(
                    f"the span holds more than {MAX_PANES} panes or {MAX_CELLS} cells: ask about"
                    " less, or publish longer periods"
                )
        return panes

    @property
    def now(self) -> int:
        """The public clock that closes panes, epoch milliseconds; 0 before its first event."""
        return self.counter.now

    def trends(self) -> Trends | None:
        """Return the detector of rising keys; None where no statistic is marked as trending."""
        sources = [
            TrendSource(d.name, "category" if d.by == "category" else "item_id", PANES[d.length])
            for d in self._definitions
            if d.trending
        ]
        return Trends(self, sources) if sources else None

    def charge(self, queries: Iterable[Query]) -> None:
        """Charge releases that are made elsewhere, before their noise is drawn.

        A budget that would be exceeded raises `tactful_privacy.BudgetError`.
        """
        self._ledger.charge(queries)

    def ledger(self) -> PrivacyLedger:
        """Return the cost of published numbers this month, by the clock of the statistics."""
        return report_month(self._ledger, day_of(self.now))

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()


def _described(statistic: Statistic) -> dict[str, Any]:
    """Return what the index and a page say of a statistic."""
    amounts = statistic.amounts
    return {
        "name": statistic.name,
        "epsilon": float(statistic.epsilon),
        "cap": statistic.cap,
        "unit": UNIT,
        # of a month 0, since months differ
        "pane_ms": {"week": 7 * DAY_MS, "month": 0}.get(str(statistic.period), statistic.pane_ms),
        "period": statistic.period or UNSET,
        "kind": statistic.kind,
        "method": method_of(statistic),
        "bounds": UNSET
        if amounts is None
        else [float(end * amounts.step) for end in (amounts.low, amounts.high)],
        "resolution": UNSET if amounts is None else float(amounts.step),
    }


def shown_before(statistic: Statistic, now: int, allowance_ms: int = ALLOWANCE_MS) -> int:
    """Return the pane start, epoch milliseconds, before which the clock lets panes show."""
    over = max(0, now - allowance_ms) - _SHOWN_AFTER_MS
    if statistic.period is not None:
        return statistic.start_of(over)
    return over - statistic.pane_ms + 1


def open_statistics(settings: Settings) -> PrivateStatistics | None:
    """Open the statistics of an installation, its ledger and its secret; None without any.

    Definitions that are wrong, or do not agree with the ledger, raise ConfigError.
    """
    definitions = settings.statistics.definitions
    if definitions == Path():
        return None
    data = settings.storage.data
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    document = load_statistics(definitions)
    if not (secret := data / SECRET).exists():
        create_file(secret, secrets.token_bytes(32))
    wall = settings.statistics.clock == "wall"
    try:
        counter = StatisticsCounter(
            document.statistics,
            Ledger(ledger_location(settings), budgets=document.all_budgets()),
            secret=secret.read_bytes(),
            clock=now_ms if wall else None,
            not_before=_not_before(data / NOT_BEFORE),
            shared=settings.shared and bool(settings.statistics.ledger_url_env),
        )
    except PrivacyError as error:
        ledger = f", {named(ledger_location(settings))}" if isinstance(error, LedgerError) else ""
        where = f"{definitions}{ledger}"
        raise ConfigError(f"{where}: {error}") from error
    return PrivateStatistics(counter)


def erasers(settings: Settings, keys: Collection[str]) -> dict[str, Callable[[bytes], bytes]]:
    """Return, by name of a consumer, its stored state without the found keys of users.

    The users are given by the keys of their histories.
    """
    definitions, secret = settings.statistics.definitions, settings.storage.data / SECRET
    statistics: list[Statistic] = []
    if definitions != Path() and secret.exists():
        document = load_statistics(definitions)
        statistics = [definition.statistics()[0] for definition in document.released]
    key = secret.read_bytes() if statistics else b""

    def without(packed: bytes) -> bytes:
        return without_people(packed, keys, statistics, key)

    return {CONSUMER: without, CHANGES: without}


def _not_before(path: Path) -> int:
    """Return when counting may begin; an illegible file is refused, not ignored."""
    try:
        return int(path.read_text("ascii"))
    except FileNotFoundError:
        return 0
    except ValueError as error:
        raise ConfigError(
            f"{path}: holds no time: restore the backup again, or write the epoch milliseconds of "
            "a future UTC day"
        ) from error
