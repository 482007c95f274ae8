"""Erasures page by page for operators, and their state without a number for analysts."""

from __future__ import annotations

import msgspec
import pytest
from tests.platform.support import Live

from tactful.metadata.privacy_audits import keep_audit
from tactful.schemas.subjects.privacy import AuditFinding, PrivacyAudit


@pytest.fixture
def workers() -> int:
    """No worker processes: they forward these requests, as `test_oidc` checks."""
    return 0


def test_erasures_are_listed_by_their_due_time(locked: Live) -> None:
    admin, analyst = locked.create_key("admin"), locked.create_key("analyst")
    headers = {"x-api-key": admin}
    requested = [locked.platform.erasures.request(f"person-{number}") for number in range(3)]
    first = locked.http.get("/v1/erasures", params={"limit": 2, "state": "all"}, headers=headers)
    cursor = first.json()["next_cursor"]
    params = {"limit": 2, "state": "all", "cursor": cursor}
    rest = locked.http.get("/v1/erasures", params=params, headers=headers)
    listed = [*first.json()["erasures"], *rest.json()["erasures"]]
    assert {it["receipt"] for it in listed} == {it.receipt for it in requested}
    assert [it["due_at"] for it in listed] == sorted(it["due_at"] for it in listed)
    assert rest.json()["next_cursor"] is None
    assert "person-" not in first.text + rest.text
    refused = locked.http.get("/v1/erasures", headers={"x-api-key": analyst})
    assert refused.json()["code"] == "missing_scope"
    for wrong in ("x", "1", "1.", "1.a b", "9" * 30 + ".a"):
        answer = locked.http.get("/v1/erasures", params={"cursor": wrong}, headers=headers)
        assert answer.json()["code"] == "bad_query", wrong


def test_an_analyst_learns_whether_one_is_overdue_and_no_number(locked: Live) -> None:
    headers = {"x-api-key": locked.create_key("analyst")}

    def status() -> dict[str, object]:
        found: dict[str, object] = locked.http.get("/v1/privacy/status", headers=headers).json()
        return found

    assert status() == {"erasures_overdue": False, "erase_days": 30.0, "audit": None}
    finding = AuditFinding(
        pipeline="counts", check="exact table", passed=True, measured=0, allowed=1
    )
    for at in (1, 2):
        audit = PrivacyAudit(
            at=at,
            passed=True,
            trustworthy=True,
            epsilon="1/2",
            cap=5,
            epsilon_lower_bound=0.4,
            planted_bugs=9,
            planted_bugs_caught=9,
            findings=[finding],
        )
        keep_audit(locked.platform.resources.installation.metadata, audit)
    told = status()["audit"]
    assert msgspec.convert(told, PrivacyAudit) == audit
