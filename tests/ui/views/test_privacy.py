"""The page "Privacy" in every state: nothing published, a month, an audit, an erasure overdue."""

from __future__ import annotations

from typing import Any

import pytest
from tests.ui.conftest import Open
from tests.ui.reading import descriptions, words
from tests.ui.server import FakePlatform

NOON = 1_772_366_400_000


def spend(tenant: str, purpose: str, days: list[float]) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "purpose": purpose,
        "epsilon_each_day": 0.5,
        "days": 2,
        "epsilon_spent": 1.0,
        "epsilon_spent_composed": 0.96,
        "epsilon_forecast": sum(days),
        "epsilon_forecast_composed": 9.5,
        "epsilon_by_day": days,
    }


def audit(**changes: Any) -> dict[str, Any]:
    finding = {"pipeline": "counts", "check": "exact table", "passed": True, "detail": ""}
    verdict = {"at": NOON, "passed": True, "trustworthy": True, "epsilon": "1", "cap": 5}
    found = {"epsilon_lower_bound": 0.91, "planted_bugs": 9, "planted_bugs_caught": 9}
    return {**verdict, **found, "findings": [{**finding, "measured": 0, "allowed": 1}], **changes}


@pytest.fixture
def published(fake: FakePlatform) -> FakePlatform:
    """A server that publishes statistics."""
    budget = {"tenant": "*", "purpose": "*", "epsilon": 1.0, "delta": 0.0, "composition": "basic"}
    query = {"name": "top", "first_day": "2026-02-03", "last_day": "2026-02-03"}
    line = {"tenant": "default", "purpose": "research", "epsilon": 0.1, "delta": 0.0}
    fake.answer(
        "/v1/privacy/ledger",
        {
            "month": "2026-02",
            "today": "2026-02-10",
            "unit": "one user and one UTC day",
            "delta": 1e-6,
            "spends": [
                spend("*", "*", [0.5] * 28),
                spend("default", "statistics", [0.25] * 28),
            ],
            "budgets": [{**budget, "reserved": 0.5, "largest_day": 0.7}],
            "queries": [
                {**query, **line, "mechanism": "m", "answered": False, "reserved_by": None}
            ],
            "in_words": "One day of one person.\nAll of February.",
        },
    )
    status(fake)
    return fake


def status(fake: FakePlatform, *, overdue: bool = False, kept: Any = None) -> None:
    told = {"erasures_overdue": overdue, "erase_days": 30.0, "audit": kept}
    fake.answer("/v1/privacy/status", told)


def test_an_analyst_sees_a_month_and_no_number_of_people(
    open_page: Open, published: FakePlatform
) -> None:
    page = open_page("privacy")
    assert not page.exception and not page.error
    said = words(page)
    assert "loses ε = 0.96 so far and ε = 9.50 by the end of the month" in said
    assert "ε left of each day's budget: 0.30" in said
    assert "One day of one person." in said
    (description,) = descriptions(page)
    assert description == "February 2026: epsilon 14 in all, at most 0.5 on a day"
    assert "No erasure is overdue" in said and "tactful privacy audit --keep" in said
    assert "Open erasures" not in said
    assert "/v1/erasures" not in published.asked
    assert not page.button
    page.selectbox[0].set_value("statistics").run()
    assert descriptions(page) == ["February 2026: epsilon 7 in all, at most 0.25 on a day"]


def test_an_operator_sees_open_and_completed_erasures(
    open_page: Open, published: FakePlatform
) -> None:
    published.sign_in_as("admin")
    step = {"place": "log", "removed": 112}
    erasure = {"receipt": "3f0c", "state": "purging", "requested_at": NOON, "due_at": NOON}
    listed = {"erasures": [{**erasure, "done_at": None, "steps": [step]}], "next_cursor": None}
    done: dict[str, Any] = {"erasures": [], "next_cursor": None}
    published.answer("/v1/erasures", lambda query: done if query.get("state") == "done" else listed)
    page = open_page("privacy")
    assert not page.exception
    tables = [table.value for table in page.dataframe if "Receipt" in table.value]
    (table,) = tables
    assert list(table["Removed records"]) == [112] and list(table["State"]) == ["being removed"]
    assert "There are none." in words(page)


@pytest.mark.slow
def test_broken_promises_are_told(open_page: Open, published: FakePlatform) -> None:
    status(published, overdue=True, kept=audit(passed=False))
    said = words(open_page("privacy"))
    assert "An erasure is past its due time" in said and "failed" in said
    status(published, kept=audit(trustworthy=False, planted_bugs_caught=8))
    assert "not reliable" in words(open_page("privacy"))
    status(published, kept=audit())
    said = words(open_page("privacy"))
    assert "the attack proved ε ≥ 0.91 where ε = 1 is claimed" in said
    assert "found 9 of 9 planted mistakes" in said


def test_nothing_is_published(open_page: Open, fake: FakePlatform) -> None:
    status(fake)
    page = open_page("privacy")
    assert not page.exception
    assert "No statistics are published here" in words(page)
    assert "No erasure is overdue" in words(page)


@pytest.mark.slow
def test_a_monitor_and_a_server_that_is_down(open_page: Open, fake: FakePlatform) -> None:
    fake.sign_in_as("monitor")
    assert "needs the scope analyst" in words(open_page("privacy")).replace("`", "")
    fake.url = "http://127.0.0.1:9"
    assert "The server does not answer" in words(open_page("privacy"))
