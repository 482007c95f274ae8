"""People that two domains know: found among those who consent, and refused messages.

Where `openmined-psi` is not installed, a library of the same interface stands in for it, which
compares in the clear; the real one is used where it is.
"""

from __future__ import annotations

import importlib.util

import pytest
from tests.platform.domains import stand_in

from tactful.domains.intersection import (
    IntersectionError,
    answer,
    ask,
    common,
    normalised,
)


@pytest.fixture(params=["stand-in", "openmined"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "stand-in":
        stand_in.install(monkeypatch)
    elif importlib.util.find_spec(stand_in.NAME) is None:
        pytest.skip("openmined-psi is not installed: pip install 'tactful[psi]'")
    return str(request.param)


def test_only_common_identifiers_are_found(library: str) -> None:
    own = [f"person-{number}@example.com" for number in (9, 3, 5, 1)]
    other = [f"person-{number}@example.com" for number in range(5)]
    key, request = ask(own)
    found = common(key, own, answer(request, other, most=10))
    assert found == ["person-3@example.com", "person-1@example.com"]
    if library == "openmined":
        assert b"person" not in request
        assert common(ask(own)[0], own, answer(request, other, most=10)) == []


def test_other_messages_are_refused(library: str) -> None:
    own = ["a", "b"]
    key, request = ask(own)
    with pytest.raises(IntersectionError, match="about 2 identifiers: 1 to 1"):
        answer(request, own, most=1)
    for wrong in (b"", b"\xff\xfe nothing"):
        with pytest.raises(IntersectionError):
            answer(wrong, own, most=10)
        with pytest.raises(IntersectionError):
            common(key, own, wrong)
    with pytest.raises(IntersectionError, match="another request"):
        common(key, ["a"], answer(request, own, most=10))


def test_identifiers_are_compared_as_people_write_them() -> None:
    assert normalised("a>b", " ＡDA@Example.COM ") == normalised("a>b", "ada@example.com")
    assert normalised("a>b", "x") != normalised("b>a", "x")
