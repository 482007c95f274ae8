"""Stored profiles that users let cross from other domains, and the tokens that brought them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import crossed_profiles, used_tokens
from tactful_privacy.people.consent import Purpose, is_crossing

_table = crossed_profiles.c
_HOUR_MS = 3_600_000


class CrossedProfile(NamedTuple):
    """A profile that crossed."""

    person: str  # key of the user or device that handed it over
    releasing: str  # domain that computed it
    embedding: str  # its version; profiles of two versions cannot be compared
    crossed_at: int  # epoch milliseconds
    vector: tuple[float, ...]


def save_profile(
    metadata: MetadataStore, profile: CrossedProfile, token_id: str, expires_at: int
) -> bool:
    """Store a profile in place of an earlier one; False if its token was used before.

    Tokens that expired, epoch milliseconds, an hour before the profile crossed are deleted, except
    for the latest: were its number reused, other processes would skip the next profile.
    """
    tokens = used_tokens.c
    highest = sa.select(sa.func.max(tokens.number))
    same = _table.person == profile.person, _table.releasing == profile.releasing

    def write(connection: sa.Connection) -> bool:
        latest = connection.execute(highest).scalar() or 0
        expired = tokens.expires_at < profile.crossed_at - _HOUR_MS, tokens.number < latest
        connection.execute(sa.delete(used_tokens).where(*expired))
        used = sa.select(tokens.token_id).where(tokens.token_id == token_id)
        if connection.execute(used).first() is not None:
            return False
        row = {"token_id": token_id, "number": latest + 1, "expires_at": expires_at}
        connection.execute(sa.insert(used_tokens), row)
        connection.execute(sa.delete(crossed_profiles).where(*same))
        fields = {**profile._asdict(), "number": latest + 1}
        fields["profile"] = np.array(fields.pop("vector"), "<f8").tobytes()
        connection.execute(sa.insert(crossed_profiles), fields)
        return True

    return metadata.change(write)


def profiles_after(metadata: MetadataStore, number: int) -> tuple[int, Sequence[CrossedProfile]]:
    """Return the profiles stored after a number, and the number of the latest."""
    query = sa.select(crossed_profiles).where(_table.number > number).order_by(_table.number)
    rows = metadata.fetch(query)
    return (rows[-1].number if rows else number), [_profile(row) for row in rows]


def profiles_of(metadata: MetadataStore, people: Collection[str]) -> list[CrossedProfile]:
    """Return the profiles of users or devices."""
    query = sa.select(crossed_profiles).where(_table.person.in_(people))
    return [_profile(row) for row in metadata.fetch(query.order_by(_table.number))]


def erase_profiles(metadata: MetadataStore, people: Collection[str]) -> int:
    """Delete the profiles of users or devices; return their number."""
    statement = sa.delete(crossed_profiles).where(_table.person.in_(people))
    return metadata.change(lambda connection: connection.execute(statement).rowcount)


def delete_profile(metadata: MetadataStore, person: str, releasing: str) -> None:
    """Delete the profile of a user or device from one domain."""
    statement = sa.delete(crossed_profiles)
    statement = statement.where(_table.person == person, _table.releasing == releasing)
    metadata.change(lambda connection: connection.execute(statement))


def delete_older(
    metadata: MetadataStore, before: int, but: Collection[tuple[str, str]] = ()
) -> int:
    """Delete the profiles that crossed before a time, epoch milliseconds; return their number.

    Those of the domains and embeddings `but` stay.
    """
    statement = sa.delete(crossed_profiles).where(_table.crossed_at < before)
    if but:
        version = sa.tuple_(_table.releasing, _table.embedding)
        statement = statement.where(version.not_in(but))
    return metadata.change(lambda connection: connection.execute(statement).rowcount)


def delete_refused(
    connection: sa.Connection,
    people: Collection[str],
    purposes: Mapping[str, bool],
    own: str,
    until: int | None = None,
) -> None:
    """Delete the profiles that a decision withdraws consent from.

    Args:
        connection: transaction that records the decision.
        people: keys of the user who decides.
        purposes: the decision.
        own: name of this domain; with an empty one a refused pair may receive by any name.
        until: time, epoch milliseconds; profiles that crossed later stay. None: they are deleted.
    """
    refused = [name for name, agrees in purposes.items() if not agrees]
    theirs: sa.ColumnElement[bool] = _table.person.in_(people)
    if until is not None:
        theirs &= _table.crossed_at <= until
    if {Purpose.SERVICE, Purpose.PERSONALISATION}.intersection(refused):
        connection.execute(sa.delete(crossed_profiles).where(theirs))
        return
    pairs = [name.split(">") for name in refused if is_crossing(name)]
    releasing = [peer for peer, receiving in pairs if own in ("", receiving)]
    if releasing:
        named = _table.releasing.in_(releasing)
        connection.execute(sa.delete(crossed_profiles).where(theirs, named))


def _profile(row: sa.Row[Any]) -> CrossedProfile:
    vector = tuple(np.frombuffer(row.profile, "<f8").tolist())
    return CrossedProfile(row.person, row.releasing, row.embedding, row.crossed_at, vector)
