"""Reports of a training run to a server of tactful, which lists it for its readers.

Rounds are kept in the directory of the run and sent in the background, so a server that is away
stops no round: they are sent once it is back, also by the next start.

```text
DIRECTORY/report.id        id of the run, drawn by its first start
DIRECTORY/report.ndjson    figures of each round, one a line
DIRECTORY/report.sent      address of the server, and how many lines it has
```
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click
import msgspec

from tactful.cli import options as cli
from tactful.client import Client
from tactful.client.routes import federated as routes
from tactful.errors import ClientError
from tactful.schemas.federated import (
    MOST_ROUNDS,
    FederatedPlan,
    FederatedReport,
    FederatedRound,
)
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file

if TYPE_CHECKING:
    from tactful_federated.serving.status import RunStatus

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_LAST_S = 10.0  # that the end of a run waits for its last report
_TIMEOUT_S = 10.0
_LONGEST_REASON = 500
_QUARTERS = 4

_decoder = msgspec.json.Decoder(FederatedRound)


@dataclass(frozen=True)
class Receiver:
    """Values of `report_options`: the server that gets the reports."""

    report: str | None
    key_file: Path | None

    def open(self, directory: Path, **about: Any) -> RunReporter:
        """Open the reporter of a run; `about` are fields of `FederatedReport` but its id."""
        client = None
        if self.report is not None:
            key = cli.api_key(self.key_file)
            client = Client(self.report, key, timeout=_TIMEOUT_S, retries=0, tls=cli.trust())
        run = FederatedReport(id=_id(directory), **about)
        return RunReporter(directory, client, run, url=self.report or "")


report_options = cli.with_options(
    click.option(
        "--report", metavar="URL", help="Server of tactful that lists the run and its rounds."
    ),
    click.option(
        "--key-file",
        type=cli.existing_file,
        help="File with its API key, with the scope ingest; else TACTFUL_API_KEY is used.",
    ),
    cli.grouped("receiver", Receiver),
)


class RunReporter:
    """Sends the rounds of one run, one report at a time; no method raises if that fails."""

    def __init__(
        self,
        directory: Path,
        client: Client | None,
        about: FederatedReport,
        *,
        url: str = "",  # address of the server: another one gets all rounds
        first_pause: float = _FIRST_PAUSE_S,
    ) -> None:
        """Prepare to report; without a client, rounds are kept and nothing is sent."""
        self._directory = directory
        self._client = client
        self._about = about
        self._url = url
        self._pause = first_pause
        self._changed = threading.Condition()
        self._rounds = kept_rounds(directory)
        self._sent = self._known()
        self._told = False  # whether the server knows the state of the run
        self._ending = False
        self._thread = threading.Thread(target=self._send, name="reports", daemon=True)

    def __enter__(self) -> Self:
        """Begin to send."""
        if self._client is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Report the end, and wait for a moment until it is sent.

        A run that was stopped goes on with its next start.
        """
        if error is None:
            self._state(state="done")
        elif isinstance(error, Exception):
            self._state(state="failed", reason=str(error)[:_LONGEST_REASON])
        if self._client is None:
            return
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(_LAST_S)
        if self._thread.is_alive() or self._sent < len(self._rounds):
            _log.warning("the last rounds were not reported; the next start reports them")

    def add(self, figures: FederatedRound) -> None:
        """Keep and send the figures of a round."""
        try:
            with (self._directory / "report.ndjson").open("ab") as file:
                file.write(msgspec.json.encode(figures) + b"\n")
        except OSError as error:
            _log.warning("a round was not kept for its report: %s", error)
        with self._changed:
            self._rounds.append(figures)
            self._changed.notify()

    @property
    def rounds(self) -> Sequence[FederatedRound]:
        """Rounds so far, including those of earlier starts."""
        return tuple(self._rounds)

    def add_lost(self, status: RunStatus) -> None:
        """Keep and send a release that a kill has kept from the reports; its duration is 0."""
        recorded = max((figures.releases for figures in self._rounds), default=0)
        if status.completed_at is None or status.releases <= recorded:
            return
        self.add(
            FederatedRound(
                number=status.round,
                at=int(status.completed_at * 1000),
                releases=status.releases,
                epsilon=status.epsilon,
                seconds=status.seconds or 0.0,
            )
        )

    def add_accuracy(self, **accuracy: Any) -> None:
        """Keep and send the accuracy of the model after the latest round."""
        if self._rounds:
            self.add(msgspec.structs.replace(self._rounds[-1], **accuracy))

    def _state(self, **state: Any) -> None:
        with self._changed:
            self._about, self._told = msgspec.structs.replace(self._about, **state), False
            self._changed.notify()

    def _send(self) -> None:
        pause, failing = self._pause, False
        while True:
            with self._changed:
                while self._told and self._sent == len(self._rounds) and not self._ending:
                    self._changed.wait()
                if self._told and self._sent == len(self._rounds):
                    return
                about, first = self._about, self._sent
                rounds = self._rounds[first : first + MOST_ROUNDS]
            if self._delivered(about, rounds, warn=not failing):
                pause, failing = self._pause, False
                continue
            if self._ending:
                return
            failing = True
            with self._changed:
                self._changed.wait_for(lambda: self._ending, pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _delivered(
        self, about: FederatedReport, rounds: list[FederatedRound], *, warn: bool
    ) -> bool:
        # The latest figures of a round count, and a report names each once.
        latest = list({figures.number: figures for figures in rounds}.values())
        assert self._client is not None
        try:
            report = msgspec.structs.replace(about, rounds=latest)
            self._client.run(routes.report(report))
        except (ClientError, OSError) as error:
            if warn:
                _log.warning("rounds are reported later: %s", error)
            return False
        with self._changed:
            self._sent += len(rounds)
            self._told = about is self._about
        with contextlib.suppress(OSError):  # the next start sends them again
            record = f"{self._url}\n{self._sent}\n"
            replace_file(self._directory / "report.sent", record.encode())
        return True

    def _known(self) -> int:
        """Return how many rounds the server has; another server has none."""
        url, number, _ = sent_rounds(self._directory)
        return number if url == self._url else 0


def plan_of(plan: Any) -> FederatedPlan:
    """Return the public part of a training plan."""
    names = FederatedPlan.__struct_fields__
    return FederatedPlan(**{name: getattr(plan, name) for name in names})


def _id(directory: Path) -> str:
    path = directory / "report.id"
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        drawn = uuid.uuid4().hex
        directory.mkdir(parents=True, exist_ok=True)
        replace_file(path, drawn.encode())
        return drawn


def kept_rounds(directory: Path) -> list[FederatedRound]:
    """Return the rounds of earlier starts; a line that a kill has cut is left out."""
    rounds = []
    with contextlib.suppress(FileNotFoundError):
        for line in (directory / "report.ndjson").read_bytes().splitlines():
            with contextlib.suppress(*DECODE_ERRORS):
                rounds.append(_decoder.decode(line))
    return rounds


def quarters_answered(figures: FederatedRound) -> float | None:
    """Return the share of asked devices that answered, rounded down to quarters; None if unknown.

    Exact numbers of devices are for administrators alone: one device more would change them.
    """
    if not figures.asked or figures.reports is None:
        return None
    return figures.reports * _QUARTERS // figures.asked / _QUARTERS


def sent_rounds(directory: Path) -> tuple[str, int, int]:
    """Return the server that got reports, the lines that it has, and all; "" for none."""
    kept = len(kept_rounds(directory))
    try:
        url, count = (directory / "report.sent").read_text("utf-8").split()
        return url, min(int(count), kept), kept
    except (OSError, ValueError):
        return "", 0, kept
