"""Screen of ``tactful top``, drawn by textual."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import DataTable, Footer, Header, Label, Sparkline, Static

from tactful.client import AsyncClient
from tactful.client.routes import operations as routes
from tactful.errors import ClientError
from tactful.schemas.operations import JobIndex, JobInfo, MetricsPage, SystemInfo

_FRESH = 'tactful_freshness_seconds{quantile="0.99"}'
_TOOK = 'tactful_request_seconds{quantile="0.99",route="/v1/recommend"}'
_BUSY = 'tactful_answers_per_second{status="429"}'
_UNREADY = 'tactful_answers_per_second{status="503"}'
_GRAPHS = (
    ("took", _TOOK, "Recommendation p99", 1000, "ms"),
    ("fresh", _FRESH, "Freshness p99", 1000, "ms"),
    ("lag", "tactful_engine_lag", "Records not applied", 1, ""),
    ("busy", _BUSY, "Answers 429", 1, "/s"),
    ("unready", _UNREADY, "Answers 503", 1, "/s"),
    ("memory", "tactful_memory_bytes", "Memory", 2**-20, "MB"),
)
_STYLES = {"ok": "green", "warning": "yellow", "failed": "red"}
_JOBS = 10


@dataclass(frozen=True)
class State:
    """State of a server, as the screen shows it."""

    system: SystemInfo
    metrics: MetricsPage
    jobs: JobIndex


async def read_state(client: AsyncClient) -> State:
    """Read everything of a server at once; raise ClientError if it does not answer."""
    names = [series for _, series, *_ in _GRAPHS]
    system, metrics, jobs = await asyncio.gather(
        client.run(routes.system()),
        client.run(routes.metrics(names)),
        client.run(routes.jobs(limit=_JOBS)),
    )
    return State(system, metrics, jobs)


class Top(App[None]):
    """The screen; it reads the server again and again, also after a failure."""

    CSS = """
    #summary { padding: 0 1; }
    #failure { padding: 0 1; color: $error; }
    .graphs { height: auto; }
    .graph { height: 4; padding: 0 1; width: 1fr; }
    Sparkline { height: 2; }
    DataTable { height: auto; max-height: 14; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("q", "quit", "Leave"), ("r", "refresh", "Read now")]

    def __init__(
        self,
        read: Callable[[], Awaitable[State]],
        *,
        url: str,
        every: float,
        now: Callable[[], float],
    ) -> None:
        """Show what `read` returns each `every` seconds; `now` returns epoch seconds."""
        super().__init__()
        self.title = f"tactful {url}"
        self._read = read
        self._every = every
        self._now = now

    def compose(self) -> ComposeResult:
        """Yield the widgets, which are empty at first."""
        yield Header()
        yield Static("Reading the server …", id="summary", markup=False)
        yield Static("", id="failure", markup=False)
        with VerticalScroll():
            for begin in (0, 3):
                with Horizontal(id=f"graphs-{begin}", classes="graphs"):
                    for name, *_ in _GRAPHS[begin : begin + 3]:
                        with Vertical(classes="graph"):
                            yield Label("", id=f"{name}-label", markup=False)
                            yield Sparkline([], id=name)
            yield DataTable(id="checks", cursor_type="none")
            yield DataTable(id="jobs", cursor_type="none")
            yield DataTable(id="workers", cursor_type="none")
        yield Footer()

    def on_mount(self) -> None:
        """Read now and then regularly."""
        for table, columns in (
            ("checks", ("Check", "State", "Finding")),
            ("jobs", ("Job", "State", "Stage", "Progress", "Started (UTC)", "Took")),
            ("workers", ("Worker", "State", "Restarts", "Model", "Items behind")),
        ):
            self.query_one(f"#{table}", DataTable).add_columns(*columns)
        self.query_one("#workers").display = False
        self.set_interval(self._every, self.action_refresh)
        self.action_refresh()

    def action_refresh(self) -> None:
        """Read the server in the background; a reading that still runs is dropped."""
        self.run_worker(self._refresh(), exclusive=True)

    async def _refresh(self) -> None:
        failure = self.query_one("#failure", Static)
        try:
            state = await self._read()
        except ClientError as error:
            failure.update(f"{error}; trying again each {self._every:g} seconds")
            return
        failure.update("")
        self._show(state)

    def _show(self, state: State) -> None:
        self.query_one("#summary", Static).update(_summary(state.system, self._now()))
        numbers = {series.name: series.highest for series in state.metrics.series}
        for name, series, title, scale, unit in _GRAPHS:
            known = [0.0 if x is None else x * scale for x in numbers.get(series, ())]
            self.query_one(f"#{name}", Sparkline).data = known
            present = f"{known[-1]:,.4g} {unit}" if known else "–"
            self.query_one(f"#{name}-label", Label).update(f"{title}: {present}")
        _fill(
            self.query_one("#checks", DataTable),
            (
                (check.name, Text(check.state, style=_STYLES[check.state]), check.finding)
                for check in state.system.checks
            ),
        )
        _fill(self.query_one("#jobs", DataTable), map(_job, state.jobs.jobs))
        workers = self.query_one("#workers", DataTable)
        workers.display = state.system.workers is not None
        _fill(
            workers,
            (
                (w.number, w.state, w.restarts, w.model_version, w.items_behind)
                for w in state.system.workers or ()
            ),
        )


def _fill(table: DataTable[object], rows: Iterable[Sequence[object]]) -> None:
    """Replace the rows of a table; texts of the server are shown as they are, without markup."""
    table.clear()
    for row in rows:
        table.add_row(*map(_cell, row))


def _cell(value: object) -> Text:
    return value if isinstance(value, Text) else Text("–" if value is None else str(value))


def _summary(system: SystemInfo, now: float) -> str:
    backup = system.last_backup
    ended = None if backup is None else backup.ended_at
    parts = [
        f"{system.status}, version {system.version}",
        f"running for {_span(now - system.started_at / 1000)}",
        f"memory {system.memory_bytes / 2**20:,.0f} MB",
        f"free disk {system.disk_free_bytes / 2**30:,.1f} of {system.disk_bytes / 2**30:,.1f} GB",
        "last backup: " + ("none" if ended is None else f"{_span(now - ended / 1000)} ago"),
    ]
    return " · ".join(parts)


def _job(job: JobInfo) -> tuple[str, ...]:
    began = datetime.fromtimestamp(job.started_at / 1000, UTC)
    took = ((job.ended_at or job.updated_at) - job.started_at) / 1000
    share = "–" if job.progress is None else f"{100 * job.progress:.0f} %"
    return job.kind, job.state, job.stage, share, f"{began:%Y-%m-%d %H:%M}", _span(took)


def _span(seconds: float) -> str:
    """Format a duration in its largest units: ``45 s``, ``12 min``, ``3 h 5 min``, ``4 days``."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{max(0, round(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{round(minutes / 1440)} days"
