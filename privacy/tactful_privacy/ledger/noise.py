"""Noise shared by several releases, kept until its period is over.

A row of `privacy_noise` for one node of the tree of running totals:

    statistic       period_start   part   noise
    "views.totals"  1767225600000  "1.0"  int64 [keys], little-endian
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from tactful_privacy.ledger import rows, schema
from tactful_privacy.ledger.statistic import Statistic

Draw = Callable[[], NDArray[np.int64]]

_noise = schema.noise


class SharedNoise:
    """Stored noise of a ledger; secret, unlike releases.

    Each part of a period is drawn once: a second draw after a crash would reveal the secret twice.
    """

    def __init__(self, engine: sa.Engine) -> None:
        """Use the database of a ledger."""
        self._engine = engine

    def draw_once(
        self, statistic: Statistic, period_start: int, draws: Mapping[str, Draw]
    ) -> dict[str, NDArray[np.int64]]:
        """Return the stored noise of the parts of a period; draw and store missing parts first.

        The period begins at an epoch millisecond, such as a day. A part has a name of at most 64
        characters and a draw, int64 ``[keys]``; another shape raises `LedgerError`.
        """
        period = sa.and_(
            _noise.c.statistic == statistic.name, _noise.c.period_start == period_start
        )

        def load(connection: sa.Connection, parts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
            result = connection.execute(sa.select(_noise).where(period, _noise.c.part.in_(parts)))
            return {row.part: np.frombuffer(row.noise, "<i8").astype(np.int64) for row in result}

        with schema.reading(self._engine) as connection:
            rows.check_registered(connection, statistic)
            stored = load(connection, list(draws))
        missing = sorted(draws.keys() - stored.keys())
        if missing:
            new = [
                {
                    "statistic": statistic.name,
                    "period_start": period_start,
                    "part": part,
                    "noise": rows.pack(draws[part](), statistic),
                }
                for part in missing
            ]
            schema.write(
                self._engine, lambda connection: schema.insert_where_absent(connection, _noise, new)
            )
            # Read back: another process may have stored its own draw first.
            with schema.reading(self._engine) as connection:
                stored |= load(connection, missing)
        return {part: stored[part] for part in draws}

    def delete_before(self, statistic: Statistic, before: int) -> None:
        """Delete the noise of periods that start before a time, after their last release."""
        past = sa.delete(_noise).where(
            _noise.c.statistic == statistic.name, _noise.c.period_start < before
        )

        def delete(connection: sa.Connection) -> None:
            connection.execute(past)

        schema.write(self._engine, delete)
