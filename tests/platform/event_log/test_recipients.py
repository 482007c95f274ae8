"""Signed ids of recommendations, and the user to whom an event belongs."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.shop import BEGIN, HOUR

from tactful.event_log.impressions import is_served
from tactful.event_log.recipients import LIFETIME_MS, Recipients, RecommendationIds
from tactful_privacy.people.pseudonyms import Keyring
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.contract.subject_ids import SubjectIds

ARMS: dict[str, Any] = {
    "experiment": "ranking",
    "arm": "learned",
    "rollouts": ["a:change", "b:control"],
}
ANY_ID = st.one_of(
    st.text(max_size=90),
    st.text(string.ascii_letters + string.digits + "-_=. \n", min_size=30, max_size=90),
)


def ids(directory: Path) -> RecommendationIds:
    return RecommendationIds(Keyring(directory / "keyring.json", clock=lambda: BEGIN))


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> RecommendationIds:
    return ids(tmp_path_factory.mktemp("installation"))


def claim(identity: str, **changes: Any) -> Event:
    fields: dict[str, Any] = {
        "user_id": "ada",
        "timestamp": BEGIN + 5,
        "properties": {"items": ["i"], **ARMS},
    }
    named = {
        "event_id": "e",
        "type": "impression",
        "recommendation_id": identity,
        "sender": "server",
    }
    return Event(**{**named, **fields, **changes})


def test_an_id_proves_what_was_given_until_it_expires(tmp_path: Path) -> None:
    signer = ids(tmp_path)
    identity = signer.sign("r" * 32, BEGIN, "ada", ARMS)
    assert len(identity) == 73
    assert (tmp_path / "keyring.json").stat().st_mode & 0o777 == 0o600
    restarted = ids(tmp_path)
    restarted.keyring.rotate()
    for checker in (signer, restarted):
        given = checker.as_given(claim(identity), BEGIN + LIFETIME_MS)
        assert given is not None
        assert (given.event_id, given.timestamp) == (f"impression:{identity}", BEGIN)
        assert is_served(given)
        assert checker.as_given(claim(identity), BEGIN + LIFETIME_MS + 1) is None
    other = ids(tmp_path / "other")
    assert (other.time_of(identity), signer.time_of(identity)) == (None, BEGIN)


@pytest.mark.parametrize(
    "changes",
    [
        {"user_id": "bob"},
        {"user_id": None, "device_id": "ada"},
        *(
            {"properties": {"items": ["i"], **ARMS, **more}}
            for more in (
                {"arm": "heuristic"},
                {"arm": None},
                {"forced": True},
                {"experiment": "other"},
                {"rollouts": ["a:change"]},
                {"rollouts": ["a:control", "b:control"]},
                {"rollouts": ["a:change", "b:control", "c:change"]},
                {"rollouts": "a:change"},
            )
        ),
    ],
)
def test_an_id_of_another_person_or_arm_proves_nothing(
    signer: RecommendationIds, changes: dict[str, Any]
) -> None:
    identity = signer.sign("r", BEGIN, "ada", ARMS)
    assert signer.as_given(claim(identity), BEGIN) is not None
    assert signer.as_given(claim(identity, **changes), BEGIN) is None


@given(place=st.integers(0, 72), letter=st.sampled_from(string.printable + "é"), other=ANY_ID)
def test_no_other_text_is_a_signed_id(
    signer: RecommendationIds, place: int, letter: str, other: str
) -> None:
    """Not even one that decodes to the same bytes: it would count a second time."""
    identity = signer.sign("r" * 32, BEGIN, "ada", ARMS)
    changed = identity[:place] + letter + identity[place + 1 :]
    inserted = identity[:place] + letter + identity[place:]
    for text in (changed, inserted, other, identity + "=", identity + "\n"):
        assert text == identity or signer.time_of(text) is None
        assert text == identity or signer.as_given(claim(text), BEGIN) is None


def test_only_the_server_logs_impressions_that_count() -> None:
    own = claim("r", event_id="impression:r", sender=None)
    assert is_served(own)
    for changes in ({"sender": "browser"}, {"sender": "server"}, {"event_id": "r"}):
        assert not is_served(msgspec.structs.replace(own, **changes))
    assert not is_served(msgspec.structs.replace(own, type="click"))


NOBODY = (None, None)
PHONE = (None, "phone")


@pytest.mark.parametrize(
    ("given_to", "sent_by", "same"),
    [
        (("ada", None), ("ada", "laptop"), True),
        (("ada", None), ("bob", None), False),
        (("ada", "phone"), ("bob", "phone"), False),
        (("ada", "phone"), PHONE, True),
        (("ada", None), PHONE, True),
        (("ada", None), (None, "tablet"), True),
        (("bob", None), PHONE, False),
        (PHONE, ("ada", None), True),
        (PHONE, ("ada", "laptop"), True),
        ((None, "tablet"), ("ada", None), True),
        (PHONE, ("bob", None), False),
        (PHONE, (None, "laptop"), False),
        (NOBODY, ("bob", "laptop"), True),
    ],
)
def test_an_event_counts_for_its_own_person(
    given_to: tuple[str | None, str | None], sent_by: tuple[str | None, str | None], same: bool
) -> None:
    """Ada has logged in on a phone, and the engine links her to a tablet."""
    linked = Recipients(lambda key, at: "ada" if key == "device:tablet" else key)
    login: dict[str, Any] = {"event_id": "e", "type": "x.login", "timestamp": BEGIN}
    linked.note(Event(**login, user_id="ada", device_id="phone"))
    user, device = sent_by
    event = Event(**login | {"timestamp": BEGIN + HOUR}, user_id=user, device_id=device)
    assert linked.includes(*given_to, event) == same


def test_the_logins_of_an_erased_user_are_removed() -> None:
    """A shared device keeps the logins of its other users."""
    recipients = Recipients()
    click = Event(event_id="c", type="click", timestamp=BEGIN, device_id="tablet")
    for user in ("ada", "bob"):
        recipients.note(msgspec.structs.replace(click, user_id=user))
    recipients.forget(SubjectIds(users=frozenset({"ada"}), shared=frozenset({"tablet"})))
    assert not recipients.includes("ada", None, click)
    assert recipients.includes("bob", None, click)
    recipients.forget(SubjectIds(users=frozenset({"bob"}), devices=frozenset({"tablet"})))
    assert not recipients.includes("bob", None, click)
