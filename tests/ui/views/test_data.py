"""Page "Data" in every state a reader can meet."""

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.ui.conftest import Open
from tests.ui.reading import words
from tests.ui.server import FakePlatform

IMPORT = "9f3c" * 8
DONE: dict[str, Any] = {
    "id": IMPORT,
    "name": "orders.csv",
    "kind": "events",
    "state": "done",
    "begun_at": 1_772_366_400_000,
    "ended_at": 1_772_366_461_000,
    "begun_by": "key 0f3a9c21",
    "accepted": 1200,
    "refused": 3,
    "undo": None,
}
UNDO = {"requested_at": 1, "requested_by": "key 1", "steps": [], "done_at": None, "problem": ""}
PREVIEW: dict[str, Any] = {
    "import_id": IMPORT,
    "events": 1200,
    "users": 0,
    "items": 7,
    "people": 310,
    "restored_items": 2,
    "withdrawn_items": 5,
    "models": [{"name": "ranker", "version": "7", "trained_at": 1_772_452_800_000}],
    "problem": "",
}
RULE = {"rule": "dear", "action": "dead_letter", "reason": "too dear", "events": 8, "letters": 8}
RULES = {"events": 50, "clean": 42, "changed": 0, "dropped": 0, "dead_lettered": 8, "rules": [RULE]}
FIELD: dict[str, Any] = {
    "of": "purchase",
    "field": "properties.price",
    "elements": 80,
    "missing": 0.26,
    "missing_before": 0.01,
    "missing_after": 0.51,
    "types": {"number": 59},
    "distinct": None,
    "lowest": 0.5,
    "highest": 980.0,
    "new_share": None,
    "new_values": [],
}
QUALITY: dict[str, Any] = {
    "passed": False,
    "elements": 80,
    "first_at": 1,
    "last_at": 2,
    "duplicates": 0,
    "look_alikes": 12,
    "refused": {},
    "sources": [{"source": "server", "before": 40, "after": 40}],
    "fields": [FIELD],
    "findings": [
        {
            "level": "fail",
            "code": "missing",
            "of": "purchase",
            "field": "properties.price",
            "message": "is missing in 51% of the second half",
        }
    ],
}


@pytest.fixture(autouse=True)
def answers(fake: FakePlatform) -> None:
    fake.sign_in_as("admin")
    fake.answer("/v1/imports", {"imports": [DONE], "next_cursor": None})
    fake.answer(f"/v1/imports/{IMPORT}/undo", PREVIEW)
    fake.answer(f"/v1/imports/{IMPORT}", {**DONE, "state": "undoing", "undo": UNDO})
    fake.answer("/v1/rules", RULES)
    fake.answer("/v1/data/quality", QUALITY)


def asked(page: AppTest) -> str:
    assert not page.exception, page.exception
    return words(page)


def press(page: AppTest, label: str) -> str:
    next(button for button in page.button if button.label == label).click().run()
    return asked(page)


def test_an_analyst_sees_no_button_and_no_number(open_page: Open, fake: FakePlatform) -> None:
    fake.sign_in_as("analyst")
    page = open_page("data")
    assert "needs the scope `admin`" in asked(page)
    assert (len(page.button), len(page.dataframe), page.metric.len) == (0, 0, 0)
    assert "/v1/imports" not in fake.asked


def test_a_server_that_is_down_is_explained(open_page: Open, fake: FakePlatform) -> None:
    fake.url = "http://127.0.0.1:9"
    assert "does not answer" in asked(open_page("data"))


@pytest.mark.slow
def test_an_empty_shop_is_told_the_first_steps(open_page: Open, fake: FakePlatform) -> None:
    fake.answer("/v1/imports", {"imports": [], "next_cursor": None})
    fake.answer("/v1/rules", {**RULES, "rules": []})
    said = asked(open_page("data"))
    assert f"tactful import events.csv --url {fake.url}" in said
    assert "tactful rules check" in said


def test_an_undo_is_counted_before_it_can_be_pressed(open_page: Open, fake: FakePlatform) -> None:
    page = open_page("data")
    assert "Undo this import" not in [button.label for button in page.button]
    said = press(page, "Show what an undo takes out")
    assert "People and devices: 310" in said
    assert "ranker 7" in said
    assert "The undo has begun" in press(page, "Undo this import")
    assert fake.deleted == [f"/v1/imports/{IMPORT}"]


@pytest.mark.slow
def test_what_cannot_be_undone_has_no_button(open_page: Open, fake: FakePlatform) -> None:
    fake.answer(f"/v1/imports/{IMPORT}/undo", {**PREVIEW, "problem": "the log is in Kafka"})
    page = open_page("data")
    assert "the log is in Kafka" in press(page, "Show what an undo takes out")
    assert "Undo this import" not in [button.label for button in page.button]


def test_dead_letters_are_sent_again(open_page: Open, fake: FakePlatform) -> None:
    done = {"accepted": 8, "duplicates": 1, "rejected": 0, "more": True}
    fake.answer("/v1/dead-letters/redrive", done)
    said = press(open_page("data"), "Send them again")
    assert "8 accepted, 1 known before, 0 refused" in said
    assert "More are left" in said


def test_quality_is_shown_when_it_is_asked_for(open_page: Open, fake: FakePlatform) -> None:
    page = open_page("data")
    assert "/v1/data/quality" not in fake.asked
    said = press(page, "Check the latest events")
    assert "purchase properties.price" in said
    assert "is missing in 51% of the second half" in said


def test_the_page_speaks_chinese(open_page: Open) -> None:
    page = open_page("data")
    page.session_state["language"] = "zh"
    assert "撤销一次导入" in asked(page.run())


def test_the_newest_events_are_followed_once(open_page: Open, fake: FakePlatform) -> None:
    message = {
        "at": 1,
        "accepted": {"view": 2_000},
        "refused": {"unknown_type": 3},
        "newest": [{"type": "view", "timestamp": 1_772_366_400_000, "user_id": "9f3c5e0a"}],
    }
    parts = f": begin\n\nevent: events\ndata: {json.dumps(message)}\n\n"
    fake.answer("/v1/events/stream", parts.encode())
    page = open_page("data")
    assert "/v1/events/stream" not in fake.asked
    follow = next(toggle for toggle in page.toggle if toggle.label == "Follow")
    follow.set_value(True).run()
    said = asked(page)
    assert "view 2,000" in said and "unknown_type 3" in said
    assert "The stream has ended" in said
    assert fake.asked.count("/v1/events/stream") == 1
