"""Descriptions sent part by part, and the log of refusals."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.pipeline.source_ingest import RefusalLog
from tactful.pipeline.user_traits import UserTraits
from tactful.sources.translate import Described


def traits(user: str = "ada", **properties: Any) -> Described:
    return Described(user, 0, properties, None)


_NAMES = st.sampled_from(["plan", "age", "country"])
_PARTS = st.dictionaries(_NAMES, st.none() | st.integers(0, 3))


@given(st.lists(st.tuples(st.sampled_from(["ada", "bob"]), _PARTS, st.integers(0, 9_000))))
def test_parts_add_up_whenever_the_engine_learns_of_them(
    sent: list[tuple[str, dict[str, Any], int]],
) -> None:
    """The engine knows a description at the latest when it is dropped here."""
    now = [0]
    engine: dict[str, dict[str, Any]] = {}
    waiting: list[tuple[int, str, dict[str, Any]]] = []
    expected: dict[str, dict[str, Any]] = {"ada": {}, "bob": {}}
    merger = UserTraits(lambda user: engine.get(user, {}), clock=lambda: now[0])
    for user, part, pause in sent:
        now[0] += pause
        for at, known, properties in waiting:
            if at + 9_000 <= now[0]:
                engine[known] = properties
        merged = merger.merged(traits(user, **part))
        waiting.append((now[0], user, merged))
        expected[user] = {k: v for k, v in {**expected[user], **part}.items() if v is not None}
        assert merged == expected[user]


def test_decisions_are_sent_and_not_repeated() -> None:
    stored = {"consent.marketing": True, "plan": "gold"}
    merger = UserTraits(lambda user: stored, clock=lambda: 0)
    assert merger.merged(traits(age=3)) == {"plan": "gold", "age": 3}
    chosen: dict[str, Any] = {"consent.marketing": False}
    assert merger.merged(traits(**chosen)) == {"plan": "gold", "age": 3, **chosen}
    assert merger.merged(traits(age=4)) == {"plan": "gold", "age": 4}


def test_descriptions_are_kept_for_a_while_and_a_few() -> None:
    now, asked = [0], []

    def described(user: str) -> dict[str, Any]:
        asked.append(user)
        return {}

    merger = UserTraits(described, clock=lambda: now[0])
    for number in range(10_001):
        merger.merged(traits(f"u-{number}", plan="gold"))
    merger.merged(traits("u-0", age=1))
    assert asked[-1] == "u-0", "the oldest made room"
    merger.merged(traits("u-10000", age=1))
    assert asked[-1] == "u-0"
    now[0] = 10_001
    merger.merged(traits("u-10000", age=1))
    assert asked[-1] == "u-10000"


def test_refusals_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0]
    log = RefusalLog(lambda: now[0])
    log.note("segment", 5, [])
    assert caplog.messages == []
    log.note("segment", 3, ["no_consent", "no_consent", "too_old"])
    log.note("segment", 9, ["too_old"])
    log.note("plain", 1, ["not_json"])
    now[0] = 60_000
    log.note("segment", 2, [])
    assert caplog.record_tuples == [
        ("tactful.pipeline.source_ingest", logging.WARNING, text)
        for text in (
            "source segment: 3 of 8 messages were refused: no_consent 2, too_old 1",
            "source plain: 1 of 1 messages were refused: not_json 1",
            "source segment: 1 of 11 messages were refused: too_old 1",
        )
    ]
