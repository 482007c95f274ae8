"""Endpoints of published statistics and of their privacy loss."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import Limit, NumberCursor, moment_of, stored
from tactful.schemas.fields import Moment
from tactful.schemas.problems import ProblemError
from tactful.schemas.statistics import (
    CONCLUSIONS,
    Conclusion,
    ConclusionQuery,
    StatisticsIndex,
    StatisticsPage,
)
from tactful.schemas.subjects.privacy import PrivacyLedger

if TYPE_CHECKING:
    from tactful.server.platform import Platform
    from tactful.statistics.service import PrivateStatistics

_UNAVAILABLE = "the ledger cannot be read now"


class StatisticsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Span of panes, and one page of them."""

    cursor: NumberCursor | None = None
    limit: Limit = 1000
    since: Moment | None = None
    until: Moment | None = None


def _published(platform: Platform) -> PrivateStatistics:
    if platform.statistics is None:
        raise ProblemError("not_found", "no statistics are published here")
    return platform.statistics


async def _get_statistics(platform: Platform, call: Call) -> Reply:
    published = platform.statistics
    return json_reply(StatisticsIndex(statistics=[]) if published is None else published.index())


async def _get_ledger(platform: Platform, call: Call) -> Reply:
    return json_reply(await stored(_published(platform).ledger, _UNAVAILABLE))


async def _get_statistic(platform: Platform, call: Call) -> Reply:
    query = call.query(StatisticsQuery)
    read = _published(platform).page
    since, until = moment_of(query.since), moment_of(query.until)
    try:
        page = await stored(
            partial(read, call.path["name"], query.cursor or None, query.limit, since, until),
            _UNAVAILABLE,
        )
    except KeyError:
        raise ProblemError("not_found", "GET /v1/statistics lists all statistics") from None
    except ValueError:
        raise ProblemError("bad_query", "give a cursor as it was returned") from None
    return json_reply(page)


async def _get_conclusion(platform: Platform, call: Call) -> Reply:
    query = call.query(ConclusionQuery)
    draw = _published(platform).conclude
    name, conclusion = call.path["name"], call.path["conclusion"]
    try:
        return json_reply(await stored(partial(draw, name, conclusion, query), _UNAVAILABLE))
    except KeyError:
        known = ", ".join(CONCLUSIONS)
        raise ProblemError(
            "not_found", f"GET /v1/statistics lists all statistics; conclusions are {known}"
        ) from None
    except ValueError as error:
        raise ProblemError("bad_query", str(error)) from None


STATISTICS_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/statistics",
        "List the published statistics",
        _get_statistics,
        scope="analyst",
        answer=StatisticsIndex,
    ),
    Endpoint(
        "GET",
        "/v1/privacy/ledger",
        "Read the privacy loss of one user this month",
        _get_ledger,
        details="Loss so far, by tenant and purpose, and the forecast to the end of the month, for "
        "a user who is active on every day.",
        scope="analyst",
        answer=PrivacyLedger,
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/statistics/{name}/{conclusion}",
        "Conclude something from a published statistic",
        _get_conclusion,
        details=(
            "A `sum`, a `share`, a `quantile`, the `top` keys, or periods that are `consistent`. "
            "It uses released numbers only and costs no privacy; intervals are those of the noise."
        ),
        scope="analyst",
        query=ConclusionQuery,
        answer=Conclusion,
        problems=("not_found", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/statistics/{name}",
        "Read a published statistic",
        _get_statistic,
        details="Every number is noisy and has a confidence interval.",
        scope="analyst",
        query=StatisticsQuery,
        answer=StatisticsPage,
        problems=("not_found", "not_ready"),
    ),
)
