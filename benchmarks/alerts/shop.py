"""Twelve weeks of a shop as its server's registry would have shown them, scrape by scrape.

Real are the events: lines of invoices (``add_to_cart``), purchases and returns by the minute, with
their nights, closed Saturdays and the rise before Christmas, and the scores: how popular a line's
item was in the 28 days before. The rest has no source in the data and is drawn around the traffic:
rejected and late events, slow requests, clicks, and the gauges of the machine.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tactful.alerts.samples import Labels, Reading, Scrape, make_scrape, signal_key
from tactful.metrics.registry import SampleRow
from tactful.schemas.alerts import AlertRule

BEGIN = dt.datetime(2011, 9, 12, tzinfo=dt.UTC)  # a Monday
WEEKS, HISTORY_WEEKS = 12, 4
MINUTES = WEEKS * 7 * 1440
BOUNDS = (-1.0, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

_NOT_ITEMS = ("POST", "M", "C2", "DOT", "BANK CHARGES", "PADS")
_FEED_DAYS = 28
_SCALE = 10.0  # of the noise of released counts: ten events of a person a day at epsilon 1
CTR = 0.05

Counts = NDArray[np.int64]
Key = tuple[str, Labels]


@dataclass(frozen=True)
class Traffic:
    """Events of the shop by the minute since `BEGIN`."""

    lines: Counts
    purchases: Counts
    returns: Counts
    scores: Counts  # lines by minute and bucket of their score


def read_traffic(path: Path) -> Traffic:
    """Read the invoices of the twelve weeks, and of the four before for the scores."""
    table = pq.read_table(path, columns=["invoice_no", "stock_code", "invoice_ts"])
    codes = np.asarray(table["stock_code"].to_pylist())
    stamps = table["invoice_ts"].to_numpy().astype("datetime64[m]").astype(np.int64)
    invoices = np.asarray(table["invoice_no"].to_pylist())
    minute = stamps - int(BEGIN.timestamp()) // 60
    kept = (minute >= -_FEED_DAYS * 1440) & (minute < MINUTES) & ~np.isin(codes, _NOT_ITEMS)
    codes, invoices, minute = codes[kept], invoices[kept], minute[kept]
    back = np.char.startswith(invoices, "C")
    scores = _scores(codes, minute)
    now = (minute >= 0) & ~back

    def by_minute(minutes: Counts) -> Counts:
        return np.bincount(minutes, minlength=MINUTES)

    _, first = np.unique(invoices[now], return_index=True)
    buckets = np.zeros((MINUTES, len(BOUNDS) + 1), np.int64)
    np.add.at(buckets, (minute[now], np.searchsorted(BOUNDS, scores[now])), 1)
    return Traffic(
        lines=by_minute(minute[now]),
        purchases=by_minute(minute[now][first]),
        returns=by_minute(minute[(minute >= 0) & back]),
        scores=buckets,
    )


def _scores(codes: NDArray[np.str_], minute: Counts) -> NDArray[np.float64]:
    """Return the popularity of each line's item in the 28 days before its day, from 0 to 1."""
    names, items = np.unique(codes, return_inverse=True)
    day = minute // 1440
    daily = np.zeros((int(day.max()) + _FEED_DAYS + 1, len(names)))
    np.add.at(daily, (day + _FEED_DAYS, items), 1)
    sums = np.vstack([np.zeros(len(names)), np.cumsum(daily, axis=0)])
    at = day + _FEED_DAYS
    before = sums[at, items] - sums[np.maximum(at - _FEED_DAYS, 0), items]
    scores: NDArray[np.float64] = np.log1p(before) / math.log(1000)
    return scores


@dataclass
class Registry:
    """Counters and gauges of the server at one moment; faults change what is drawn."""

    noise: np.random.Generator
    totals: dict[Key, float] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    released: Reading | None = None
    shown_today: float = 0.0
    clicked_today: float = 0.0

    def add(self, name: str, value: float, **labels: str) -> None:
        """Let a counter grow."""
        key = (name, tuple(sorted(labels.items())))
        self.totals[key] = self.totals.get(key, 0.0) + value

    def scrape(self, private: AlertRule) -> Scrape:
        """Return the samples, and the release that the rule `private` looks at."""
        rows: list[SampleRow] = [
            (name, dict(labels), value) for (name, labels), value in self.totals.items()
        ]
        rows += [(name, {}, value) for name, value in self.gauges.items()]
        released = {} if self.released is None else {signal_key(private.value): self.released}
        return make_scrape(rows, released)

    def copy(self, noise: np.random.Generator) -> Registry:
        """Return an equal registry, to go on with a fault."""
        return Registry(
            noise,
            dict(self.totals),
            dict(self.gauges),
            self.released,
            self.shown_today,
            self.clicked_today,
        )


@dataclass(frozen=True)
class Faults:
    """Faults of the shop; the defaults are a shop without faults."""

    rejected: float = 0.004
    failed: float = 1e-5
    dropped: float = 0.01
    slow: float = 0.002
    short: float = 0.01
    lost: float = 0.0
    refused_commits: float = 0.0
    failed_rounds: float = 0.0
    clicks: float = 1.0
    purchases: float = 1.0
    traffic: float = 1.0
    flat_scores: bool = False
    gauges: dict[str, float] = field(default_factory=dict)


def advance(registry: Registry, traffic: Traffic, minute: int, part: float, faults: Faults) -> None:
    """Let `part` of a minute pass."""
    draw = registry.noise
    lines, purchases, returns = (
        int(draw.binomial(counts[minute], min(1.0, part * faults.traffic)))
        for counts in (traffic.lines, traffic.purchases, traffic.returns)
    )
    purchases = int(draw.binomial(purchases, faults.purchases))
    _ingest(registry, lines + purchases + returns, faults)
    _recommend(registry, lines, purchases, minute, traffic, faults)
    registry.add("tactful_commits_refused_total", draw.poisson(faults.refused_commits * part))
    rounds = "tactful_federated_rounds_total"
    registry.add(rounds, draw.poisson(0.05 * part), result="done")
    failed = draw.poisson((0.0002 + faults.failed_rounds) * part)
    registry.add(rounds, failed, result="failed")
    if minute % 1440 == 0 and part > 0 and registry.shown_today:
        registry.released = release(registry)
        registry.shown_today = registry.clicked_today = 0.0
    registry.gauges = machine(minute, draw, lines) | faults.gauges


def _ingest(registry: Registry, sent: int, faults: Faults) -> None:
    draw = registry.noise
    rejected = draw.binomial(sent, faults.rejected)
    events = sent - rejected
    registry.add("tactful_ingested_total", events, kind="event", result="accepted")
    registry.add("tactful_ingested_total", rejected, kind="event", result="rejected")
    failed = draw.binomial(sent + 5, faults.failed)
    registry.add("tactful_answers_total", sent + 5 - failed, route="/v1/events", status="202")
    registry.add("tactful_answers_total", failed, route="/v1/events", status="500")
    dropped = draw.binomial(events, faults.dropped)
    registry.add("tactful_engine_records_total", events - dropped, result="applied")
    registry.add("tactful_engine_records_total", dropped, result="dropped")
    registry.add("tactful_dead_letters_total", dropped)
    slow = draw.binomial(events, faults.slow)
    registry.add("tactful_freshness_seconds_bucket", events - slow, le="1.0")
    registry.add("tactful_freshness_seconds_bucket", events, le="+Inf")


def _recommend(
    registry: Registry, lines: int, purchases: int, minute: int, traffic: Traffic, faults: Faults
) -> None:
    draw = registry.noise
    short = draw.binomial(lines, faults.short)
    registry.add("tactful_recommended_lists_total", lines - short, result="whole")
    registry.add("tactful_recommended_lists_total", short, result="short")
    registry.add("tactful_impressions_lost_total", draw.binomial(lines, faults.lost))
    clicks = draw.binomial(lines, CTR * faults.clicks)
    for step, count in (
        ("recommendation", lines),
        ("click", clicks),
        ("add_to_cart", lines),
        ("purchase", purchases),
    ):
        registry.add("tactful_steps_total", count, step=step)
    registry.shown_today += lines
    registry.clicked_today += clicks
    shares = traffic.scores[minute] + 0.0
    if faults.flat_scores:  # a model that gives nearly the same score to everything
        shares = np.zeros(len(shares))
        shares[2:4] = 0.5
    counts = draw.multinomial(lines, shares / shares.sum()) if lines else np.zeros(len(shares))
    below = 0.0
    for bound, count in zip([*map(str, BOUNDS), "+Inf"], counts, strict=True):
        below += float(count)
        registry.add("tactful_recommendation_score_bucket", below, le=bound)


def release(registry: Registry) -> Reading:
    """Return the released click rate of a day, with Laplace noise and its interval of 95 %."""
    half = _SCALE * math.log(1 / 0.05)
    clicked = max(0.0, registry.clicked_today + registry.noise.laplace(0, _SCALE))
    shown = registry.shown_today + registry.noise.laplace(0, _SCALE)
    low, high = max(0.0, clicked - half) / (shown + half), (clicked + half) / max(shown - half, 1)
    return Reading(clicked / max(shown, 1), low, high, "")


def machine(minute: int, draw: np.random.Generator, lines: int) -> dict[str, float]:
    """Return the gauges of a machine that is well."""
    day = minute / 1440
    return {
        "tactful_log_unreachable": 0.0,
        "tactful_engine_lag": float(draw.poisson(lines)) + float(draw.gamma(0.3, 200.0)),
        "tactful_watermark_stalled_seconds": float(draw.exponential(3.0)),
        "tactful_flink_job_failing": 0.0,
        "tactful_model_age_days": day % 7,
        "tactful_rollouts_rolled_back": 0.0,
        "tactful_budget_reserved_share": 0.3 + 0.5 * (day % 30) / 30,
        "tactful_disk_free_share": 0.6 - 0.3 * (day % 20) / 20,
        "tactful_certificate_days": 90 - day % 60,
        "tactful_webhooks_buried": 0.0,
        "tactful_alert_sinks_failing": float(draw.random() < 0.0005),
    }


def minutes_of_week(weeks: range) -> Iterator[int]:
    """Yield the minutes of some weeks."""
    yield from range(weeks.start * 10_080, weeks.stop * 10_080)


def epoch_ms(minute: float) -> int:
    """Return the time of a minute since `BEGIN`, epoch milliseconds."""
    return int(BEGIN.timestamp() * 1000 + minute * 60_000)
