"""Decisions about consent, kept for good in the metadata and in memory for every question.

All processes of an installation share the decisions; each follows what the others add. A decision
is in force in the process that records it when `record` returns, and in the others at their next
`refresh`, a quarter of a second later.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tactful.config.settings import Settings
from tactful.metadata.store import MetadataStore, consent_decisions
from tactful_privacy.people.consent import EVERYTHING, NOTHING, Consents, Decision, Purpose
from tactful_streaming.contract.log_entries import DEVICE_PREFIX

_table = consent_decisions.c

PROPERTY = "consent."
"""What the properties of a user begin with that are decisions: ``consent.marketing: false``."""


_NOBODY = ""


class ConsentStore:
    """The decisions of one installation.

    Attributes:
        consents: what everybody has agreed to, as far as this process knows.
    """

    def __init__(
        self,
        metadata: MetadataStore,
        default: frozenset[Purpose],
        *,
        clock: Callable[[], int],
    ) -> None:
        """Read all decisions.

        Args:
            metadata: where they are kept.
            default: what those may be used for who said nothing.
            clock: now in epoch milliseconds.

        Raises:
            StorageError: if the database cannot be used.
        """
        self.consents = Consents(default)
        self._metadata = metadata
        self._clock = clock
        self._lock = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Take in what other processes recorded; one query.

        Raises:
            StorageError: if the database cannot be reached; what is known stays.
        """
        with self._lock:
            query = (
                sa.select(consent_decisions)
                .where(_table.version > self.consents.version)
                .order_by(_table.version)
            )
            self.consents.take(map(_decision, self._metadata.fetch(query)))

    def record(
        self, person: str, purposes: Mapping[Purpose, bool], *, source: str, at: int | None = None
    ) -> None:
        """Record one decision, durably.

        Args:
            person: key of the person.
            purposes: whether each is agreed to; those that are missing stay as they were.
            source: where it was said.
            at: when it was said, epoch milliseconds; None: now.

        Raises:
            StorageError: if the database cannot be used; nothing was recorded.
        """
        self.record_many({person: purposes}, source=source, at=at)

    def record_many(
        self,
        decisions: Mapping[str, Mapping[Purpose, bool]],
        *,
        source: str,
        at: int | None = None,
    ) -> None:
        """Record decisions of several people in one transaction; see :meth:`record`."""
        now = self._clock()
        highest = sa.select(sa.func.max(_table.version)).with_for_update()

        def insert(connection: sa.Connection) -> None:
            latest = connection.execute(highest).scalar() or 0
            rows = [
                {
                    "version": latest + number,
                    "person": person,
                    "purposes": json.dumps({str(p): agrees for p, agrees in purposes.items()}),
                    "at": now if at is None else at,
                    "recorded_at": now,
                    "source": source,
                }
                for number, (person, purposes) in enumerate(decisions.items(), 1)
            ]
            connection.execute(sa.insert(consent_decisions), rows)

        if decisions:
            self._metadata.change(insert)
            self.refresh()

    def news(self, properties: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[Purpose, bool]]:
        """What the properties of people say of consent that is not known already.

        Args:
            properties: by user id.
        """
        found: dict[str, dict[Purpose, bool]] = {}
        for person, described in properties.items():
            said = {
                Purpose(name): value
                for key, value in described.items()
                if key.startswith(PROPERTY)
                and (name := key.removeprefix(PROPERTY)) in EVERYTHING
                and isinstance(value, bool)
            }
            known = self.consents.said(person) if said else {}
            if any(known.get(purpose) is not agrees for purpose, agrees in said.items()):
                found[person] = said
        return found

    def history(self, person: str) -> Sequence[Decision]:
        """All decisions of a person, oldest first.

        Raises:
            StorageError: if the database cannot be reached.
        """
        query = sa.select(consent_decisions).where(_table.person == person)
        return [_decision(row) for row in self._metadata.fetch(query.order_by(_table.version))]

    def erase(self, person: str) -> int:
        """Delete all decisions of a person for good; how many there were.

        Other processes remember them until their next start; that the person is suppressed holds
        before any of them. The row of the latest decision of all stays, of nobody and empty: were
        its number given once more, nobody who knows it would take in the next decision.
        """
        highest = sa.select(sa.func.max(_table.version)).with_for_update()

        def change(connection: sa.Connection) -> int:
            latest = connection.execute(highest).scalar() or 0
            theirs = _table.person == person
            blank = {"person": _NOBODY, "purposes": "{}", "source": ""}
            kept = sa.update(consent_decisions).where(theirs, _table.version == latest)
            gone = connection.execute(kept.values(**blank)).rowcount
            old = sa.or_(theirs, _table.person == _NOBODY)
            earlier = sa.select(sa.func.count()).where(theirs)
            gone += int(connection.execute(earlier).scalar() or 0)
            connection.execute(sa.delete(consent_decisions).where(old, _table.version < latest))
            return gone

        gone = self._metadata.change(change)
        self.consents.forget(person)
        return gone


def default_purposes(settings: Settings) -> frozenset[Purpose]:
    """What those may be used for who said nothing: nothing, unless the settings assume consent."""
    chosen = settings.consent.default
    if chosen == "auto":
        return EVERYTHING if settings.server.dev else NOTHING
    return EVERYTHING if chosen == "assume" else NOTHING


def keys_of(user_id: str | None, device_id: str | None) -> tuple[str, ...]:
    """Keys under which somebody may have decided."""
    keys = [] if user_id is None else [user_id]
    if device_id is not None:
        keys.append(DEVICE_PREFIX + device_id)
    return tuple(keys)


def _decision(row: sa.Row[Any]) -> Decision:
    said = json.loads(row.purposes)
    return Decision(
        version=row.version,
        person=row.person,
        # A purpose of a later version of the software is none here.
        purposes={Purpose(name): agrees for name, agrees in said.items() if name in EVERYTHING},
        at=row.at,
        source=row.source,
    )
