"""Reported runs of federated training, in the metadata of an installation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa

from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import federated_rounds, federated_runs
from tactful.schemas.federated import FederatedReport, FederatedRound, FederatedRun

_MOST_RUNS = 200  # the oldest are deleted
_MOST_ROUNDS = 20_000  # of a run; later ones are not kept

_report_decoder = msgspec.json.Decoder(FederatedReport)
_round_decoder = msgspec.json.Decoder(FederatedRound)


class FederatedRunStore:
    """Runs and their rounds; a report that is repeated changes nothing."""

    def __init__(self, metadata: MetadataStore, *, clock: Callable[[], int]) -> None:
        """Use a metadata store and a clock, epoch milliseconds."""
        self._metadata = metadata
        self._clock = clock

    def take(self, report: FederatedReport, *, by: str) -> int:
        """Keep a report and return the number of rounds that are known of its run.

        A run that has ended stays ended if an earlier report arrives late.

        Raises:
            StorageError: if the metadata cannot be used; nothing was kept then.
        """
        return self._metadata.change(lambda connection: self._take(connection, report, by))

    def _take(self, connection: sa.Connection, report: FederatedReport, by: str) -> int:
        now, runs, rounds = self._clock(), federated_runs, federated_rounds
        known = connection.execute(sa.select(runs.c.about).where(runs.c.id == report.id)).scalar()
        about = msgspec.structs.replace(report, rounds=[])
        if known is not None and about.state == "running":
            before = _report_decoder.decode(known)
            newest = max((it.number for it in report.rounds), default=0)
            if before.state == "done" and newest <= self._last(connection, report.id):
                about = before
        values = {"about": msgspec.json.encode(about).decode(), "updated_at": now}
        if known is None:
            row = {"id": report.id, "started_at": now, "reported_by": by, **values}
            connection.execute(sa.insert(runs).values(**row))
            self._thin(connection)
        else:
            connection.execute(sa.update(runs).where(runs.c.id == report.id).values(**values))
        taken = {it.number: it for it in report.rounds if it.number <= _MOST_ROUNDS}
        if taken:
            of_run = rounds.c.run == report.id
            connection.execute(sa.delete(rounds).where(of_run, rounds.c.number.in_(list(taken))))
            rows = [
                {"run": report.id, "number": number, "figures": msgspec.json.encode(it).decode()}
                for number, it in taken.items()
            ]
            connection.execute(sa.insert(rounds), rows)
        counted = sa.select(sa.func.count()).select_from(rounds).where(rounds.c.run == report.id)
        return int(connection.execute(counted).scalar_one())

    @staticmethod
    def _last(connection: sa.Connection, run: str) -> int:
        newest = sa.select(sa.func.max(federated_rounds.c.number))
        return int(connection.execute(newest.where(federated_rounds.c.run == run)).scalar() or 0)

    @staticmethod
    def _thin(connection: sa.Connection) -> None:
        runs = federated_runs
        order = sa.select(runs.c.id).order_by(runs.c.updated_at.desc(), runs.c.id)
        old = [row[0] for row in connection.execute(order)][_MOST_RUNS:]
        for table, column in ((federated_rounds, federated_rounds.c.run), (runs, runs.c.id)):
            connection.execute(sa.delete(table).where(column.in_(old)))

    def runs(self, *, limit: int, offset: int = 0) -> list[FederatedRun]:
        """Return runs, the one with the latest report first."""
        order = (federated_runs.c.updated_at.desc(), federated_runs.c.id)
        query = sa.select(federated_runs).order_by(*order).limit(limit).offset(offset)
        return [self._run(row) for row in self._metadata.fetch(query)]

    def find(self, run: str) -> FederatedRun | None:
        """Return a run, or None."""
        query = sa.select(federated_runs).where(federated_runs.c.id == run)
        return next((self._run(row) for row in self._metadata.fetch(query)), None)

    def rounds(self, run: str, *, after: int, limit: int) -> list[FederatedRound]:
        """Return rounds with greater numbers than `after`, in order."""
        table = federated_rounds
        chosen = sa.select(table.c.figures).where(table.c.run == run, table.c.number > after)
        query = chosen.order_by(table.c.number).limit(limit)
        return [_round_decoder.decode(row[0]) for row in self._metadata.fetch(query)]

    def _run(self, row: sa.Row[Any]) -> FederatedRun:
        about, table = _report_decoder.decode(row.about), federated_rounds
        newest = sa.select(table).where(table.c.run == row.id).order_by(table.c.number.desc())
        latest = self._metadata.fetch(newest.limit(1))
        counted = sa.select(sa.func.count()).select_from(table).where(table.c.run == row.id)
        count = int(self._metadata.fetch(counted)[0][0])
        return FederatedRun(
            id=about.id,
            name=about.name,
            tier=about.tier,
            simulated=about.simulated,
            plan=about.plan,
            state=about.state,
            reason=about.reason,
            started_at=row.started_at,
            updated_at=row.updated_at,
            rounds=count,
            last=_round_decoder.decode(latest[0].figures) if latest else None,
        )
