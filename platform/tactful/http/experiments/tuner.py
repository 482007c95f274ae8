"""Endpoint of tuners: ``/v1/tuner``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import PageQuery, stored
from tactful.schemas.experiments.tuner import TunerIndex

if TYPE_CHECKING:
    from tactful.server.platform import Platform


class TunerQuery(PageQuery, forbid_unknown_fields=True):
    """Choices of a report of the tuners.

    Attributes:
        days: of recommendations that count.
    """

    days: Annotated[float, Meta(gt=0, le=400)] = 7.0


async def _get_tuners(platform: Platform, call: Call) -> Reply:
    query = call.query(TunerQuery)
    read = partial(platform.tuner_reports.all, days=query.days, exact=call.trusted)
    found = await stored(read, "tuners cannot be read now")
    page = [tuner for tuner in found if tuner.key > query.cursor]
    more = len(page) > query.limit
    page = page[: query.limit]
    return json_reply(TunerIndex(tuners=page, next_cursor=page[-1].key if more else None))


TUNER_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/tuner",
        "List the tuners of rollouts",
        _get_tuners,
        details=(
            "Bounds and present weights of each tuner. `admin` also gets the weights over time, "
            "the verdict of its evaluation, and its regret against the best fixed weights near its "
            "own, by an off-policy estimate. That reads the log, at most once a minute."
        ),
        scope="analyst",
        query=TunerQuery,
        answer=TunerIndex,
        problems=("not_ready",),
    ),
)
