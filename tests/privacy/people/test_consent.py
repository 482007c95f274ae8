"""Decisions about purposes, against a model that keeps every word that was said."""

from __future__ import annotations

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


def decisions(said: list[tuple[str, dict[Purpose, bool]]]) -> list[Decision]:
    return [
        Decision(version=number, person=person, purposes=purposes, at=number)
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
    agreed = {Purpose.PERSONALISATION: True}
    consents.take([Decision(version=1, person="ada", purposes=agreed, at=0)])
    assert consents.allowed("ada") == {Purpose.PERSONALISATION, Purpose.SERVICE}
    refused = {Purpose.SERVICE: False}
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
