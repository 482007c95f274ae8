"""Typed report for the pages, tolerant of missing values.

The demo writes its report section by section while it runs, so any part may be missing or empty.
`Report.parse` therefore never fails on a missing, null or malformed *value*: a number becomes None,
a row is dropped, and the page leaves the place empty. Only an
answer that is no JSON object is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from tactful_ui.errors import BadAnswer

SERVED = "served"
"""Name of the quality row of the platform's own ranking; the other rows are baselines."""

METRICS = ("hr20", "ndcg20", "mrr20", "coverage20")
"""Keys of the quality metrics, in display order."""

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; the ends may be unknown."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Ranking:
    """Quality metrics of one ranking over the questions."""

    name: str
    label: str
    metrics: Mapping[str, Estimate]

    @property
    def served(self) -> bool:
        """Whether this is the served ranking, not a baseline."""
        return self.name == SERVED


@dataclass(frozen=True)
class Percentiles:
    """Median and 99th percentile of a duration in milliseconds, number of samples."""

    p50: float | None
    p99: float | None
    samples: float | None


@dataclass(frozen=True)
class Arm:
    """Result of one experiment arm: `rate` is hits per question, in 0..1."""

    name: str
    units: float | None
    questions: float | None
    rate: Estimate


@dataclass(frozen=True)
class Experiment:
    """Result of the experiment during the replay; `words` is its summary text."""

    key: str
    arms: tuple[Arm, ...]
    difference: Estimate | None
    method: str
    words: str


@dataclass(frozen=True)
class Count:
    """One privately released count: `key` in the pane that starts at `start` (UTC)."""

    start: datetime
    key: str
    value: Estimate


@dataclass(frozen=True)
class Statistics:
    """Released counts and their privacy guarantee."""

    name: str  # name of the statistic
    epsilon: float | None  # privacy loss per unit, above 0
    cap: float | None  # largest number of events that count for one unit
    unit: str  # description of the protected unit
    released_panes: float | None  # number of panes released altogether
    counts: tuple[Count, ...]  # released counts of the selected days

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the counts, largest released total first."""
        totals: dict[str, float] = {}
        for count in self.counts:
            totals[count.key] = totals.get(count.key, 0.0) + count.value.value
        return tuple(sorted(totals, key=lambda key: (-totals[key], key)))


@dataclass(frozen=True)
class Round:
    """Accuracy (0..1) and loss of the intent model after one federated round."""

    number: int
    loss: float | None
    top1: float | None
    top5: float | None


@dataclass(frozen=True)
class Federated:
    """Training of the intent model across households, compared with a Markov chain."""

    households: float | None  # number of households that took part
    rounds: tuple[Round, ...]  # all rounds
    markov_top1: float | None  # top-1 accuracy of the Markov chain, 0..1
    markov_top5: float | None  # top-5 accuracy of the Markov chain, 0..1
    privacy: str  # description of the protection and its limits
    verdict: str  # sentence on whether the model beats the chain
    skipped: str  # reason for skipping the training; empty otherwise


@dataclass(frozen=True)
class Model:
    """Card of the ranking model; `gains` are (feature, total gain), largest first."""

    name: str
    version: str
    alias: str
    run_id: str
    rows: float | None
    gains: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Report:
    """One report. Sections that the demo has not reached are None or empty."""

    name: str
    data: str
    quick: bool
    started_at: datetime | None
    finished_at: datetime | None
    stage: str
    progress: float
    protocol: str
    questions: float | None
    quality: tuple[Ranking, ...]
    verdict: str
    latency: Percentiles | None
    freshness: Percentiles | None
    experiment: Experiment | None
    statistics: Statistics | None
    federated: Federated | None
    model: Model | None
    real_and_simulated: tuple[str, ...]
    timings: tuple[tuple[str, float], ...]
    environment: tuple[tuple[str, str], ...]

    @property
    def finished(self) -> bool:
        """Whether the demo has completed the report."""
        return self.finished_at is not None

    @property
    def served(self) -> Ranking | None:
        """The platform's own ranking."""
        return next((row for row in self.quality if row.served), None)

    @property
    def best_baseline(self) -> Ranking | None:
        """The baseline with the highest HR@20."""
        rows = [row for row in self.quality if not row.served and "hr20" in row.metrics]
        return max(rows, key=lambda row: row.metrics["hr20"].value, default=None)

    @classmethod
    def parse(cls, raw: object) -> Report:
        """Parse ``GET /v1/reports/{name}``; raise BadAnswer for what is no JSON object."""
        if not isinstance(raw, Mapping):
            raise BadAnswer(f"a report is a JSON object, the server sent {type(raw).__name__}")
        return _read(
            cls,
            raw,
            progress=min(1.0, max(0.0, _number(raw.get("progress")) or 0.0)),
            quality=_rows(raw.get("quality"), _ranking),
            latency=_section(raw, "latency_ms", lambda part: _percentiles(part, "requests")),
            freshness=_section(raw, "freshness_ms", lambda part: _percentiles(part, "samples")),
            experiment=_section(raw, "experiment", _experiment),
            statistics=_section(raw, "statistics", _statistics),
            federated=_section(raw, "federated", _federated),
            model=_section(raw, "model", _model),
            real_and_simulated=tuple(
                filter(None, map(_text, _list(raw.get("real_and_simulated"))))
            ),
            timings=tuple(
                (_text(stage), seconds)
                for stage, value in _items(raw.get("timings_s"))
                if (seconds := _number(value)) is not None
            ),
            environment=tuple(flatten(raw.get("environment"))),
        )


def parse_time(raw: object) -> datetime | None:
    """Parse RFC 3339 text or epoch milliseconds to a UTC time; None for other values."""
    try:
        if isinstance(raw, str):
            moment = datetime.fromisoformat(raw)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        milliseconds = _number(raw)
        return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def flatten(raw: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten a JSON object to (dotted path, text) pairs without nulls."""
    for key, value in _items(raw):
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}.")
        elif isinstance(value, list):
            yield path, ", ".join(map(_text, value))
        elif text := _text(value):
            yield path, text


def _number(raw: object) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return None
    try:
        value = float(raw)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _text(raw: object) -> str:
    if raw is None:
        return ""
    return f"{raw:.6g}" if isinstance(raw, float) else str(raw)


def _list(raw: object) -> list[Any]:
    return raw if isinstance(raw, list) else []


def _items(raw: object) -> list[tuple[Any, Any]]:
    return list(raw.items()) if isinstance(raw, Mapping) else []


_READERS: Mapping[str, Callable[[object], object]] = {
    "str": _text,
    "float | None": _number,
    "datetime | None": parse_time,
    "bool": lambda raw: raw is True,
}


def _read(kind: Callable[..., _Row], raw: Mapping[str, Any], **known: object) -> _Row:
    """Make a dataclass of the fields that are `known`, and read the others by their types."""
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in known:
            known[field.name] = _READERS[str(field.type)](raw.get(field.name))
    return kind(**known)


def _section(
    raw: Mapping[str, Any], key: str, parse: Callable[[Mapping[str, Any]], _Row]
) -> _Row | None:
    part = raw.get(key)
    return parse(part) if isinstance(part, Mapping) and part else None


def _rows(raw: object, parse: Callable[[Mapping[str, Any]], _Row | None]) -> tuple[_Row, ...]:
    parsed = (parse(row) for row in _list(raw) if isinstance(row, Mapping))
    return tuple(row for row in parsed if row is not None)


def _estimate(raw: object, *, value: str = "value") -> Estimate | None:
    if not isinstance(raw, Mapping):
        number = _number(raw)
        return None if number is None else Estimate(number)
    middle = _number(raw.get(value))
    if middle is None:
        return None
    return Estimate(middle, _number(raw.get("low")), _number(raw.get("high")))


def _ranking(raw: Mapping[str, Any]) -> Ranking | None:
    name = _text(raw.get("name"))
    metrics = {key: value for key in METRICS if (value := _estimate(raw.get(key))) is not None}
    return Ranking(name, _text(raw.get("label")) or name, metrics) if name and metrics else None


def _percentiles(raw: Mapping[str, Any], samples: str) -> Percentiles:
    return _read(Percentiles, raw, samples=_number(raw.get(samples)))


def _experiment(raw: Mapping[str, Any]) -> Experiment:
    difference = raw.get("difference")
    return _read(
        Experiment,
        raw,
        arms=_rows(raw.get("arms"), _arm),
        difference=_estimate(difference),
        method=_text(difference.get("method")) if isinstance(difference, Mapping) else "",
    )


def _arm(raw: Mapping[str, Any]) -> Arm | None:
    rate = _estimate(raw, value="rate")
    return None if rate is None else _read(Arm, raw, name=_text(raw.get("arm")), rate=rate)


def _statistics(raw: Mapping[str, Any]) -> Statistics:
    return _read(Statistics, raw, counts=_rows(raw.get("sample"), _count))


def _count(raw: Mapping[str, Any]) -> Count | None:
    start, value = parse_time(raw.get("pane_start")), _estimate(raw)
    if start is None or value is None:
        return None
    return Count(start, _text(raw.get("key")), value)


def _federated(raw: Mapping[str, Any]) -> Federated:
    return _read(Federated, raw, rounds=_rows(raw.get("rounds"), _round))


def _round(raw: Mapping[str, Any]) -> Round | None:
    number = _number(raw.get("round"))
    return None if number is None else _read(Round, raw, number=int(number))


def _model(raw: Mapping[str, Any]) -> Model:
    gains = (
        (_text(row.get("name")), gain)
        for row in _list(raw.get("features"))
        if isinstance(row, Mapping) and (gain := _number(row.get("gain"))) is not None
    )
    return _read(Model, raw, gains=tuple(sorted(gains, key=lambda pair: -pair[1])))
