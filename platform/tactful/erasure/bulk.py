"""Erasure of many users, also by other values that are stored of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from tactful.schemas.users import Erasure, ErasureRequest, ErasureResult, PersonMatches
from tactful.subjects.access_log import Access
from tactful.subjects.installation import Installation
from tactful.subjects.look_up import Identifier

Find = Callable[[Collection[Identifier]], Mapping[Identifier, PersonMatches]]
"""Finds the users of identifiers."""


def request_erasures(
    installation: Installation, requests: Sequence[ErasureRequest], find: Find, *, by: str
) -> list[ErasureResult]:
    """Request the erasure of many users; each has one receipt, however often they are named.

    A StorageError may leave some requested: the same call again returns their receipts. `by` is the
    author, for the trail of accesses.
    """
    identifiers = {Identifier(r.by, r.value) for r in requests if r.by != "user_id"}
    matches = find(identifiers) if identifiers else {}
    results = [_judge(request, matches) for request in requests]
    named = dict.fromkeys(person for result in results for person in result.people)
    accepted = {
        person for result in results if result.state == "accepted" for person in result.people
    }
    for person in named:
        action: Access = "erase" if person in accepted else "find"
        installation.accesses.record(person, action, by=by)
    installation.suppression.suppress(accepted)
    receipts = {person: installation.jobs.request(person) for person in named if person in accepted}
    return [_with_receipts(result, receipts) for result in results]


def _judge(request: ErasureRequest, matches: Mapping[Identifier, PersonMatches]) -> ErasureResult:
    if request.by == "user_id":
        return ErasureResult(state="accepted", people=[request.value])
    found = matches[Identifier(request.by, request.value)]
    people = [match.person for match in found.people]
    if not people and not found.more:
        return ErasureResult(state="refused", reason="unknown", people=[])
    if found.more or {*(request.people or people[:1])} != {*people}:
        return ErasureResult(state="refused", reason="ambiguous", people=people)
    return ErasureResult(state="accepted", people=people)


def _with_receipts(result: ErasureResult, receipts: Mapping[str, Erasure]) -> ErasureResult:
    if result.state != "accepted":
        return result
    erasures = [receipts[person] for person in result.people]
    return ErasureResult(state=result.state, people=result.people, erasures=erasures)
