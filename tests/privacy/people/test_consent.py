"""Decisions about purposes, against a model that keeps every word that was said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_privacy.errors import ParameterError
from tactful_privacy.people.consent import (
    EVERYTHING,
    NOTHING,
    Consents,
    Decision,
    Purpose,
    crossing,
    parse_decision,
    parse_purposes,
)

PEOPLE = ["ada", "bob", "device:d"]
words = st.lists(
    st.tuples(
        st.sampled_from(PEOPLE),
        st.dictionaries(st.sampled_from(list(Purpose)), st.booleans(), min_size=1),
    ),
    max_size=12,
)


def decisions(said: Sequence[tuple[str, Mapping[Any, bool]]]) -> list[Decision]:
    return [
        Decision(version=number, person=person, purposes={**purposes}, at=number)
        for number, (person, purposes) in enumerate(said, 1)
    ]


def naive(
    said: list[tuple[str, dict[Purpose, bool]]], default: frozenset[Purpose], keys: list[str]
) -> frozenset[Purpose]:
    """The rule as it is told to people, one purpose after the other."""
    latest: dict[tuple[str, Purpose], bool] = {}
    for person, purposes in said:
        for purpose, agrees in purposes.items():
            latest[person, purpose] = agrees

    def holds(purpose: Purpose) -> bool:
        spoken = [latest[key, purpose] for key in keys if (key, purpose) in latest]
        if False in spoken:
            return False
        return bool(spoken) or purpose in default

    refused_all = any(latest.get((key, Purpose.SERVICE)) is False for key in keys)
    if refused_all:
        return NOTHING
    allowed = {purpose for purpose in Purpose if holds(purpose)}
    return frozenset(allowed | {Purpose.SERVICE}) if allowed else NOTHING


@given(
    words,
    st.sampled_from([NOTHING, EVERYTHING]),
    st.lists(st.sampled_from(PEOPLE), max_size=3),
    st.none() | st.frozensets(st.sampled_from(list(Purpose))),
)
def test_what_is_allowed_is_what_was_said_last(
    said: list[tuple[str, dict[Purpose, bool]]],
    default: frozenset[Purpose],
    keys: list[str],
    claimed: frozenset[Purpose] | None,
) -> None:
    consents = Consents(default)
    consents.take(decisions(said))
    wanted = naive(said, default if claimed is None else claimed, keys)
    assert consents.allowed(*keys, claimed=claimed) == wanted


@given(words, st.integers(0, 12))
def test_decisions_that_are_known_change_nothing(
    said: list[tuple[str, dict[Purpose, bool]]], again: int
) -> None:
    once, twice = Consents(), Consents()
    once.take(decisions(said))
    twice.take(decisions(said))
    twice.take(decisions(said)[:again])
    assert [once.said(person) for person in PEOPLE] == [twice.said(person) for person in PEOPLE]
    assert twice.version == len(said)


def test_agreement_includes_and_refusal_excludes_service() -> None:
    """An agreement includes the service, and a refused service refuses everything."""
    consents = Consents()
    agreed: dict[str, bool] = {Purpose.PERSONALISATION: True}
    consents.take([Decision(version=1, person="ada", purposes=agreed, at=0)])
    assert consents.allowed("ada") == {Purpose.PERSONALISATION, Purpose.SERVICE}
    refused: dict[str, bool] = {Purpose.SERVICE: False}
    consents.take([Decision(version=2, person="ada", purposes=refused, at=1)])
    assert consents.allowed("ada") == NOTHING
    consents.take([Decision(version=3, person="bob", purposes=agreed, at=2)])
    consents.forget("bob")
    assert consents.said("bob") == {}
    assert consents.allowed("bob") == NOTHING


def test_an_unknown_purpose_is_refused_by_name() -> None:
    assert parse_purposes(["marketing"]) == {Purpose.MARKETING}
    with pytest.raises(ParameterError, match=r"'profit'.*personalisation"):
        parse_purposes(["service", "profit"])


PAIR = crossing("shop", "magazine")
answers = st.lists(
    st.tuples(
        st.sampled_from(PEOPLE),
        st.dictionaries(
            st.sampled_from([*Purpose, PAIR, crossing("magazine", "shop")]),
            st.booleans(),
            min_size=1,
        ),
    ),
    max_size=12,
)


@given(
    answers, st.sampled_from([NOTHING, EVERYTHING]), st.lists(st.sampled_from(PEOPLE), max_size=3)
)
def test_a_profile_crosses_by_decision_alone(
    said: list[tuple[str, dict[str, bool]]], default: frozenset[Purpose], keys: list[str]
) -> None:
    """It takes the first key's own agreement, and a refusal under any key wins.

    No default allows a crossing, and the other purposes stay as they are.
    """
    consents, plain = Consents(default), Consents(default)
    consents.take(decisions(said))
    others = [
        (person, {it: agrees for it, agrees in purposes.items() if it in EVERYTHING})
        for person, purposes in said
    ]
    plain.take(decisions(others))
    latest = {person: purposes[PAIR] for person, purposes in said if PAIR in purposes}
    answers = [latest.get(key) for key in keys]
    agreed = bool(keys) and answers[0] is True and False not in answers
    personal = Purpose.PERSONALISATION in plain.allowed(*keys)
    assert consents.allowed(*keys) == plain.allowed(*keys)
    assert consents.crosses(PAIR, *keys) == (agreed and personal)
    for person in keys:
        consents.forget(person)
    assert not consents.crosses(PAIR, *keys)


def test_only_crossings_of_the_settings_are_agreed_to() -> None:
    """Any may be refused: its domain may have been removed from the settings since."""
    assert parse_decision({PAIR: True, "service": True}, {PAIR}) == {PAIR: True, "service": True}
    with pytest.raises(ParameterError, match=r"'shop>forum'.*there are shop>magazine"):
        parse_decision({"shop>forum": True}, {PAIR})
    with pytest.raises(ParameterError, match="there are none"):
        parse_decision({PAIR: True})
    assert parse_decision({PAIR: False}) == {PAIR: False}
    with pytest.raises(ParameterError, match="no purpose 'shop>'"):
        parse_decision({"shop>": True}, {PAIR})
