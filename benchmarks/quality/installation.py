"""The product as a stranger runs it: `tactful serve` and `tactful train` with nothing but defaults.

Only the directory is set, and the server runs with ``--dev``, so that requests may name their time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.progress import Progress
from benchmarks.quality.dataset import Dataset, Record, who
from tactful.client import Client
from tactful.demo.datasets import Ask
from tactful.schemas.positions import Position, covers
from tactful.training.evaluation import CUTOFF
from tactful.util.signals import end_process

_BATCH = 500


class Installation:
    """A data directory, with a server on it now and then."""

    def __init__(self, directory: Path) -> None:
        """Write the settings into a new directory."""
        self.directory = directory
        directory.mkdir(parents=True)
        self._configure()

    def copy(self, directory: Path) -> Installation:
        """Copy everything while no server runs."""
        shutil.copytree(self.directory, directory)
        other = Installation.__new__(Installation)
        other.directory = directory
        other._configure()
        return other

    def delete(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextlib.contextmanager
    def serve(self) -> Iterator[Visitor]:
        """Run a server until the end of the context.

        Raises:
            RuntimeError: if it does not start.
        """
        command = [sys.executable, "-m", "tactful", "serve", "--dev", "--json", "--port", "0"]
        log = self.directory / "server.log"
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [*command, "--config", str(self._settings)],
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.directory,
                env=self._environment(),
            )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server did not start: {log.read_text()[-300:]}")
            with Client(json.loads(line)["url"], timeout=60.0) as client:
                yield Visitor(client)
        finally:
            end_process(process, 60)

    def train(self, *, promote: Sequence[str] = ("--promote",)) -> dict[str, Any]:
        """Train with defaults; return what the command printed.

        Raises:
            RuntimeError: if it fails.
        """
        command = [sys.executable, "-m", "tactful", "train", "--json", *promote]
        done = subprocess.run(
            [*command, "--config", str(self._settings)],
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=self._environment(),
        )
        if done.returncode:
            raise RuntimeError(f"training failed: {done.stderr.strip()[-300:]}")
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return result

    @property
    def _settings(self) -> Path:
        return self.directory / "tactful.toml"

    def _configure(self) -> None:
        data = json.dumps(str((self.directory / "data").resolve()))
        reports = json.dumps(str((self.directory / "reports").resolve()))
        self._settings.write_text(f"[storage]\ndata = {data}\nreports = {reports}\n", "utf-8")

    def _environment(self) -> Mapping[str, str]:
        # An installation has no settings from the shell that measures.
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TACTFUL_")}
        return {**kept, "MLFLOW_TRACKING_URI": f"sqlite:///{self.directory.resolve()}/mlflow.db"}


class Visitor:
    """A client that sends a set and asks its questions in the order of arrival."""

    def __init__(self, client: Client) -> None:
        """Use a client."""
        self._client = client
        self._position: Position = 0

    def send_all(self, dataset: Dataset, progress: Progress) -> None:
        """Send the catalogue, the users and everything before the cut, and wait for the engine."""
        for start in range(0, len(dataset.items), _BATCH):
            self.upsert("item", dataset.items[start : start + _BATCH])
        for start in range(0, len(dataset.users), _BATCH):
            self.upsert("user", dataset.users[start : start + _BATCH])
        for start in range(0, dataset.cut, _BATCH):
            end = min(start + _BATCH, dataset.cut)
            self._send(dataset.records(start, end))
            progress(end, dataset.cut)
        deadline = time.monotonic() + 300.0
        while not covers(self._client.features("nobody").position, self._position):
            if time.monotonic() > deadline:
                raise RuntimeError("the engine has not caught up within 300 s")
            time.sleep(0.05)

    def ask_all(
        self,
        dataset: Dataset,
        asks: Sequence[Ask],
        progress: Progress,
        *,
        new_only: Collection[int] = (),
    ) -> tuple[list[tuple[str, ...]], dict[int, tuple[str, ...]]]:
        """Ask each question after everything that came before it.

        Args:
            dataset: the events.
            asks: the questions in the order of arrival.
            progress: called with the number of questions so far, and of all.
            new_only: numbers of questions to ask once more, with `exclude_seen`.

        Returns:
            Item ids of each question, and those with `exclude_seen` by number.
        """
        sent = dataset.cut
        lists, new = [], {}
        for number, ask in enumerate(asks):
            if ask.before > sent:
                self._send(dataset.records(sent, ask.before))
                sent = ask.before
            session = ask.session_id if dataset.sends_session else None
            lists.append(self.ask(ask.person, session, ask.at))
            if number in new_only:
                new[number] = self.ask(ask.person, session, ask.at, exclude_seen=True)
            progress(number + 1, len(asks))
        return lists, new

    def ask(
        self, person: str, session: str | None, at: int, *, exclude_seen: bool = False
    ) -> tuple[str, ...]:
        """Ask for one recommendation."""
        answer = self._client.recommend(
            **who(person),
            session_id=session,
            count=CUTOFF,
            timestamp=at,
            after=self._position,
            exclude_seen=exclude_seen,
        )
        return tuple(item.item_id for item in answer.items)

    def send_events(self, events: Sequence[dict[str, Any]]) -> None:
        """Send events.

        Raises:
            RuntimeError: if the server refuses one.
        """
        answer = self._client.events(events)
        if answer.rejected or answer.accepted + answer.duplicates != len(events):
            first = answer.rejected[0].message if answer.rejected else "some were not accepted"
            raise RuntimeError(f"the server refused {len(answer.rejected)} events; first: {first}")
        self._position = answer.position

    def _send(self, records: Iterable[Record]) -> None:
        for kind, group in groupby(records, key=lambda record: record[0]):
            if kind == "event":
                self.send_events([record for _, record in group])
            else:
                self.upsert(kind, [record for _, record in group])

    def upsert(self, kind: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Upsert records of one kind, `item` or `user`.

        Raises:
            RuntimeError: if the server refuses one.
        """
        send = self._client.items if kind == "item" else self._client.users
        answer = send([dict(record) for record in records])
        if answer.rejected:
            raise RuntimeError(f"the server refused: {answer.rejected[0].message}")
        self._position = answer.position
