"""Rows of exports: recommendations, and membership of a segment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tactful.client import Client
from tactful.errors import ApiError, ConfigError
from tactful.exports.run import Row, Rows
from tactful.lifecycle.profile import NAME, NO_CONSENT
from tactful.schemas.recommendations import RecommendRequest
from tactful_bandits.assignment.conditions import Condition, matches

_LONGEST = 256
_NOT_FOUND = 404


def recommended(client: Client, request: RecommendRequest, problems: dict[str, str]) -> Rows:
    """Return a function that requests recommendations; `request` holds for every user.

    A user whose request is refused has no row; `problems` gets the reason.
    """

    def rows(users: Sequence[str]) -> Mapping[str, Row]:
        sendable = [user for user in users if len(user) <= _LONGEST]
        problems.update(dict.fromkeys({*users} - {*sendable}, "the id is too long"))
        requests = [msgspec.structs.replace(request, user_id=user) for user in sendable]
        answers = client.recommend_batch(requests).results if requests else []
        found: dict[str, Row] = {}
        for user, answer in zip(sendable, answers, strict=True):
            if answer.recommendation is not None:
                made = answer.recommendation
                found[user] = {
                    "recommendation_id": made.recommendation_id,
                    "items": [{"item_id": it.item_id, "score": it.score} for it in made.items],
                    "fallback": made.fallback,
                }
            elif answer.problem is not None:
                problems[user] = answer.problem.detail or answer.problem.title
        return found

    return rows


def members(
    client: Client,
    condition: Condition,
    purpose: str,
    *,
    clock: Callable[[], float] = time.time,
) -> Rows:
    """Return a function that finds the users whose features fulfil a condition.

    Only users who agreed to `purpose` can be members, and none that were erased. The function
    raises ConfigError if the condition names a feature that the server does not have.
    """

    def rows(users: Sequence[str]) -> Mapping[str, Row]:
        found: dict[str, Row] = {}
        for user in users:
            features = _features(client, user) if len(user) <= _LONGEST else None
            if features is None:
                continue
            if unknown := sorted(_names(condition) - features.keys()):
                raise ConfigError(
                    f"--where: the server has no feature {unknown[0]!r}; it has "
                    f"{', '.join(sorted(features))}"
                )
            if not matches(condition, features):
                continue
            if purpose in client.consent(user).allowed:
                found[user] = {"at": int(clock() * 1000)}
        return found

    return rows


def _names(condition: object) -> set[str]:
    """Return the features that a condition names."""
    if isinstance(condition, list):
        return {name for part in condition for name in _names(part)}
    if not isinstance(condition, Mapping):
        return set()
    names: set[str] = set()
    for key, part in condition.items():
        names |= _names(part) if key.startswith("$") else {key.partition(".")[0]}
    return names


def _features(client: Client, user: str) -> Mapping[str, Any] | None:
    try:
        known = client.features(user)
    except ApiError as error:
        if error.status == _NOT_FOUND:  # erased
            return None
        raise
    if known.lifecycle is None:  # a server of an earlier version
        return known.features
    refused = known.lifecycle.reason == NO_CONSENT
    return {**known.features, NAME: {} if refused else msgspec.to_builtins(known.lifecycle)}
