"""Releases of several processes on one ledger: who may draw a pane.

Two counters of one input agree about a user's contributions only if nothing but the user's own
events decides which of them count. If they agree, any of them may release any pane, one process at
a time: that with the highest fence. If they may differ, a user could contribute up to the cap to
the panes of each; then a UTC day belongs to the counter that first releases something of it.

    privacy_fence       1, 1772366400123
    privacy_publishers  "views.hourly", 20514, "9f3c…"
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tactful_privacy.errors import LedgerFencedError
from tactful_privacy.ledger import schema
from tactful_privacy.ledger.statistic import DAY_MS

_fences, _publishers = schema.fences, schema.publishers


@dataclass(frozen=True)
class DayClaim:
    """The right of one counter to a UTC day, where counters may differ."""

    statistic: str  # whose panes are counted; longer periods and totals share its counts
    counter: str  # name of the counter, at most 64 characters


def check_fence(connection: sa.Connection, fence: int | None) -> None:
    """Raise the stored fence to this one; `LedgerFencedError` if it is higher, or for None.

    No other process passes until the transaction ends.
    """
    schema.lock(connection)
    stored = connection.execute(sa.select(_fences.c.fence)).scalar()
    if fence is None or (stored is not None and int(stored) > fence):
        raise LedgerFencedError("another process releases now, with a later lease")
    if stored is None:
        connection.execute(sa.insert(_fences).values(id=1, fence=fence))
    elif int(stored) < fence:
        connection.execute(sa.update(_fences).values(fence=fence))


def insert_releases(
    connection: sa.Connection,
    new: list[dict[str, Any]],
    claim: DayClaim | None,
    fence: Callable[[], int | None] | None,
) -> None:
    """Insert releases that are absent; under a lease only what this process may release.

    Args:
        connection: its transaction guards the insertion.
        new: rows of `schema.releases`.
        claim: right to the days of the rows, which it may not have; None: any counter will do.
        fence: returns the fence of this process; None: no lease is in use.
    """
    if fence is not None and claim is None:
        check_fence(connection, fence())
    elif fence is not None and claim is not None:
        days = {row["pane_start"] // DAY_MS for row in new}
        own = claim_days(connection, claim, days, fence())
        new = [row for row in new if row["pane_start"] // DAY_MS in own]
    if new:
        schema.insert_where_absent(connection, schema.releases, new)


def claim_days(
    connection: sa.Connection, claim: DayClaim, days: Collection[int], fence: int | None
) -> frozenset[int]:
    """Return the days that belong to this counter; days of nobody are claimed under the fence.

    `LedgerFencedError` if days of nobody cannot be claimed: see `check_fence`.
    """
    schema.lock(connection)
    owners = dict(day_owners(connection, claim.statistic, days))
    if free := sorted(set(days) - owners.keys()):
        check_fence(connection, fence)
        new = [{"statistic": claim.statistic, "day": d, "counter": claim.counter} for d in free]
        connection.execute(sa.insert(_publishers), new)
        owners |= dict.fromkeys(free, claim.counter)
    return frozenset(day for day, counter in owners.items() if counter == claim.counter)


def day_owners(
    connection: sa.Connection, statistic: str, days: Collection[int]
) -> Mapping[int, str]:
    """Return the counters that days belong to; days of nobody are absent."""
    columns = (_publishers.c.day, _publishers.c.counter)
    query = sa.select(*columns).where(
        _publishers.c.statistic == statistic, _publishers.c.day.in_(days)
    )
    return {int(row.day): str(row.counter) for row in connection.execute(query)}
