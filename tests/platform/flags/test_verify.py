"""Claimed exposures are verified if the server draws the same arm for a known unit."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tactful.flags.definitions import read_definitions
from tactful.flags.verify import GRACE_MS, KnownVersion, Proof, check
from tactful_bandits.flags import Features, evaluate
from tactful_streaming.contract.log_entries import Event

NOW = 1_796_000_000_000
FILE = """
holdouts: {everything: {share: 0.2}}
flags:
  form:
    kind: text
    variants: {long: long, short: short}
    default: long
    holdout: everything
    rules:
      - when: {country: CH}
        experiment: {key: form-2027, arms: [long, short], coverage: 0.8, sticky: STICKY}
"""


def version(text: str, begins: int, ends: int | None = None) -> KnownVersion:
    payload = read_definitions(text, "flags.yaml").payload
    return KnownVersion(Features.from_payload(payload), begins, ends)


FIRST = version(FILE.replace("STICKY", "false"), NOW - 1_000)
VERSIONS = {1: FIRST}


def claim(device: str, arm: str, **about: Any) -> Event:
    said = {"experiment": "form-2027", "arm": arm, "flag": "form", "version": 1}
    event = Event(
        event_id="e", type="exposure", timestamp=NOW, device_id=device, received_at=NOW + 5
    )
    properties = said | about.pop("said", {})
    return msgspec.structs.replace(event, properties=properties, **about)


def arm_of(device: str) -> str | None:
    """Return the arm that a client evaluates for itself."""
    result = evaluate(FIRST.features, "form", {"id": device, "country": "CH"})
    return result.arm if result.in_experiment else None


def test_exactly_the_arms_that_clients_evaluate_are_verified() -> None:
    devices = [f"d{number}" for number in range(400)]
    for device in devices:
        for arm in ("long", "short"):
            found = check(claim(device, arm), VERSIONS, known_unit=True)
            assert isinstance(found, Proof) == (arm_of(device) == arm), (device, arm, found)
    arms = [arm_of(device) for device in devices]
    assert arms.count(None) > 80, "held out, or beyond the coverage"
    assert min(arms.count("long"), arms.count("short")) > 80


ADMITTED = next(f"d{n}" for n in range(100) if arm_of(f"d{n}") == "short")


def test_a_proof_has_what_the_claim_says() -> None:
    found = check(claim(ADMITTED, "short"), VERSIONS, known_unit=True)
    assert isinstance(found, Proof)
    assert msgspec.structs.astuple(found.applied) == ("form-2027", "short", "form", 1)
    assert found.sticky is None


@pytest.mark.parametrize(
    ("about", "known", "doubt"),
    [
        ({}, False, "no token"),
        ({"said": {"arm": 1}}, True, "incomplete"),
        ({"said": {"version": True}}, True, "incomplete"),
        ({"said": {"version": "1"}}, True, "incomplete"),
        ({"said": {"experiment": None}}, True, "incomplete"),
        ({"said": {"version": 2}}, True, "unknown version"),
        ({"said": {"flag": "other"}}, True, "unknown experiment"),
        ({"said": {"experiment": "other"}}, True, "unknown experiment"),
        ({"said": {"arm": "long"}}, True, "another arm"),
        ({"said": {"arm": "none"}}, True, "another arm"),
        ({"timestamp": NOW - 400_000}, True, "wrong time"),
        ({"received_at": NOW - 400_000}, True, "wrong time"),
    ],
)
def test_doubts(about: dict[str, Any], known: bool, doubt: str) -> None:
    assert check(claim(ADMITTED, "short", **about), VERSIONS, known_unit=known) == doubt


def test_an_old_version_counts_for_a_day() -> None:
    versions = {1: FIRST._replace(ends=NOW), 2: FIRST._replace(begins=NOW)}
    in_time = claim(ADMITTED, "short", timestamp=NOW + GRACE_MS, received_at=NOW + GRACE_MS)
    assert isinstance(check(in_time, versions, known_unit=True), Proof)
    late = claim(ADMITTED, "short", timestamp=NOW + GRACE_MS + 1, received_at=None)
    assert check(late, versions, known_unit=True) == "wrong time"
    early = claim(ADMITTED, "short", said={"version": 2}, timestamp=NOW - 300_001)
    assert check(early, versions, known_unit=True) == "wrong time", "its clock is wrong"


@pytest.mark.parametrize("sticky", [True, False])
def test_only_a_sticky_arm_outlives_a_smaller_coverage(sticky: bool) -> None:
    text = FILE.replace("STICKY", str(sticky).lower())
    smaller = text.replace("coverage: 0.8", "coverage: 0.001")
    versions = {3: version(text, 0, NOW), 4: version(smaller, NOW)}
    found = check(claim(ADMITTED, "short", said={"version": 4}), versions, known_unit=True)
    assert isinstance(found, Proof) == sticky
    if isinstance(found, Proof):
        assert found.sticky == (f"id||{ADMITTED}", "form-2027__0", "short")
    other = check(claim(ADMITTED, "long", said={"version": 4}), versions, known_unit=True)
    assert other == "another arm"
