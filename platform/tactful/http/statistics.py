"""Endpoints of published statistics and of their privacy loss."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import Cursor, Limit, NoQuery, moment_of, stored
from tactful.schemas.fields import Moment
from tactful.schemas.problems import ProblemError
from tactful.schemas.statistics import (
    CONCLUSIONS,
    Conclusion,
    ConclusionQuery,
    StatisticsIndex,
    StatisticsPage,
)
from tactful.statistics.ledger_view import PrivacyLedger

if TYPE_CHECKING:
    from tactful.server.platform import Platform
    from tactful.statistics.service import PrivateStatistics

_UNAVAILABLE = "the ledger cannot be read now"


class StatisticsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Span of panes, and one page of them."""

    cursor: Cursor | None = None
    limit: Limit = 1000
    since: Moment | None = None
    until: Moment | None = None


def _published(platform: Platform) -> PrivateStatistics:
    if platform.statistics is None:
        raise ProblemError("not_found", "no statistics are published here")
    return platform.statistics


async def _get_statistics(platform: Platform, call: Call) -> Reply:
    call.query(NoQuery)
    published = platform.statistics
    return json_reply(StatisticsIndex(statistics=[]) if published is None else published.index())


async def _get_ledger(platform: Platform, call: Call) -> Reply:
    call.query(NoQuery)
    return json_reply(await stored(_published(platform).ledger, _UNAVAILABLE))


async def _get_statistic(platform: Platform, call: Call) -> Reply:
    query = call.query(StatisticsQuery)
    read = _published(platform).page
    since, until = moment_of(query.since), moment_of(query.until)
    try:
        page = await stored(
            partial(read, call.path["name"], query.cursor, query.limit, since, until), _UNAVAILABLE
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


_LEDGER = {
    "month": "2026-03",
    "today": "2026-03-17",
    "unit": "one user, one UTC day",
    "delta": 1e-6,
    "spends": [
        {
            "tenant": "*",
            "purpose": "*",
            "epsilon_each_day": 1.0,
            "days": 17,
            "epsilon_spent": 17.0,
            "epsilon_spent_composed": 16.8,
            "epsilon_forecast": 31.0,
            "epsilon_forecast_composed": 28.6,
        }
    ],
    "budgets": [
        {
            "tenant": "*",
            "purpose": "*",
            "epsilon": 1.0,
            "delta": 0.0,
            "composition": "basic",
            "reserved": 1.0,
            "largest_day": 1.0,
        }
    ],
    "queries": [],
    "in_words": "One day of one person: …",
}

STATISTICS_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/statistics",
        "List the published statistics",
        _get_statistics,
        scope="analyst",
        query=NoQuery,
        answer=StatisticsIndex,
        answer_example={
            "statistics": [{"name": "views", "epsilon": 1.0, "cap": 20, "unit": "user-day"}]
        },
    ),
    Endpoint(
        "GET",
        "/v1/privacy/ledger",
        "Read the privacy loss of one user this month",
        _get_ledger,
        details="Loss so far, by tenant and purpose, and the forecast to the end of the month, for "
        "a user who is active on every day.",
        scope="analyst",
        query=NoQuery,
        answer=PrivacyLedger,
        answer_example=_LEDGER,
        problems=("not_found", "not_ready"),
    ),
    # A parameter matches slashes, too: the longer path comes first.
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
        parameters_example={
            "name": "views",
            "conclusion": "top",
            "since": "2026-03-01T00:00:00Z",
            "until": "2026-03-02T00:00:00Z",
            "k": 1,
        },
        answer_example={
            "name": "views",
            "conclusion": "top",
            "since": 1772323200000,
            "until": 1772409600000,
            "panes": 24,
            "epsilon": 1.0,
            "delta": 2.2e-17,
            "cap": 20,
            "unit": "one user, one UTC day",
            "method": "discrete Laplace, exact 64-bit table",
            "confidence": 0.95,
            "results": [
                {"key": "kitchen", "value": 9012, "low": 8620, "high": 9404, "best": 1, "worst": 1}
            ],
        },
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
        parameters_example={"name": "views", "limit": 24, "since": "2026-03-01T00:00:00Z"},
        answer_example={
            "name": "views",
            "epsilon": 1.0,
            "cap": 20,
            "unit": "user-day",
            "cells": [
                {
                    "pane_start": 1772366400000,
                    "key": "kitchen",
                    "value": 412.0,
                    "low": 352.0,
                    "high": 472.0,
                }
            ],
            "next_cursor": None,
        },
        problems=("not_found", "not_ready"),
    ),
)
