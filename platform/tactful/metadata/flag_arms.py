"""Stored arms of sticky experiments, and the users and devices that they belong to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import flag_arms

_table = flag_arms.c


@dataclass(frozen=True)
class StickyArm:
    """An arm that a unit keeps; fields are the columns of the table."""

    document: str  # attribute and value that identify the unit, `id||ada`
    experiment: str  # key of the experiment and version of its buckets, `checkout__0`
    person: str  # key of the user or device
    arm: str
    version: int  # version of the flags
    at: int  # epoch milliseconds


def read_documents(
    metadata: MetadataStore, documents: Collection[str]
) -> dict[str, dict[str, str]]:
    """Return the arms of documents, by document and experiment."""
    query = sa.select(flag_arms).where(_table.document.in_(documents))
    return _by_document(documents, metadata.fetch(query))


def insert_missing(metadata: MetadataStore, arms: Sequence[StickyArm]) -> dict[str, dict[str, str]]:
    """Insert the arms for which there is no other; return their documents as stored then."""
    wanted = {(arm.document, arm.experiment): arm for arm in reversed(arms)}
    documents = sorted({arm.document for arm in arms})

    def write(connection: sa.Connection) -> dict[str, dict[str, str]]:
        query = sa.select(flag_arms).where(_table.document.in_(documents))
        stored = _by_document(documents, connection.execute(query))
        missing = [
            asdict(arm)
            for (document, experiment), arm in wanted.items()
            if experiment not in stored[document]
        ]
        if missing:
            connection.execute(sa.insert(flag_arms), missing)
        for row in missing:
            stored[row["document"]][row["experiment"]] = row["arm"]
        return stored

    return metadata.change(write)


def arms_of(metadata: MetadataStore, people: Collection[str]) -> list[StickyArm]:
    """Return the arms of users or devices."""
    query = sa.select(flag_arms).where(_table.person.in_(people))
    return [StickyArm(**row._mapping) for row in metadata.fetch(query)]


def erase_arms(metadata: MetadataStore, people: Collection[str]) -> list[StickyArm]:
    """Delete the arms of users or devices, and return them."""
    own = arms_of(metadata, people)
    statement = sa.delete(flag_arms).where(_table.person.in_(people))
    metadata.change(lambda connection: connection.execute(statement))
    return own


def _by_document(
    documents: Collection[str], rows: Iterable[sa.Row[Any]]
) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {document: {} for document in documents}
    for row in rows:
        found[row.document][row.experiment] = row.arm
    return found
