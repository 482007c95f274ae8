"""Users' decisions about consent, stored in the metadata and cached in memory.

All processes of an installation share the decisions. A decision is effective in the recording
process when `record` returns, and in the others at their next `refresh`, a quarter of a second
later.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tactful.config.domains import DomainSettings
from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.metadata.crossed_profiles import delete_refused
from tactful.metadata.directory_lock import note_of_holder
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import consent_decisions
from tactful.schemas.problems import ProblemError
from tactful.subjects.permissions import Permissions
from tactful_privacy.people.consent import (
    EVERYTHING,
    NOTHING,
    Consents,
    Decision,
    Purpose,
    is_crossing,
    parse_purposes,
)
from tactful_streaming.contract.log_entries import User

logger = logging.getLogger(__name__)

_table = consent_decisions.c

PROPERTY = "consent."
"""Prefix of user properties that are decisions: ``consent.marketing: false``."""


_NOBODY = ""
_NOTE = b"allowed without a decision: "


class ConsentStore:
    """The decisions of one installation; StorageError if the database cannot be used.

    Attributes:
        consents: decisions that this process has read.
        domains: settings of the crossings that users may agree to.
        devices_of: returns the keys of the devices that a user holds now; a refusal of the user
            deletes the profiles that crossed on them, too.
    """

    def __init__(
        self,
        metadata: MetadataStore,
        default: frozenset[Purpose],
        *,
        clock: Callable[[], int],
        domains: DomainSettings | None = None,
    ) -> None:
        """Read all decisions.

        Args:
            metadata: database with an up-to-date schema.
            default: allowed purposes of users without a decision.
            clock: epoch milliseconds.
            domains: settings of the crossings that users may agree to; None for none.
        """
        self.consents = Consents(default)
        self.domains = DomainSettings() if domains is None else domains
        self.devices_of: Callable[[str], Collection[str]] = lambda person: ()
        self._metadata = metadata
        self._clock = clock
        self._lock = threading.Lock()
        self._followers: list[Callable[[Sequence[Decision]], None]] = []
        self.refresh()

    def follow(self, take: Callable[[Sequence[Decision]], None]) -> None:
        """Call `take` with new decisions, once they are in force; it must not raise."""
        self._followers.append(take)

    def refresh(self) -> None:
        """Read the decisions of other processes; one query; the cache stays if it fails."""
        with self._lock:
            query = (
                sa.select(consent_decisions)
                .where(_table.version > self.consents.version)
                .order_by(_table.version)
            )
            decisions = [_decision(row) for row in self._metadata.fetch(query)]
            self.consents.take(decisions)
            for take in self._followers if decisions else ():
                take(decisions)

    def record(
        self, person: str, purposes: Mapping[str, bool], *, source: str, at: int | None = None
    ) -> None:
        """Record one decision, durably; missing purposes stay unchanged.

        A refusal deletes the profiles that crossed by it. The time `at` is in epoch milliseconds;
        None: now.
        """
        self.record_many({person: purposes}, source=source, at=at)

    def record_many(
        self, decisions: Mapping[str, Mapping[str, bool]], *, source: str, at: int | None = None
    ) -> None:
        """Record decisions of several users in one transaction; see :meth:`record`."""
        now = self._clock()
        highest = sa.select(sa.func.max(_table.version))
        refused = {
            person: [person, *self.devices_of(person)]
            for person, purposes in decisions.items()
            if False in purposes.values()
        }

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
            for person, keys in refused.items():
                delete_refused(connection, keys, decisions[person], self.domains.name)

        if decisions:
            self._metadata.change(insert)
            self.refresh()

    def new_decisions(
        self, properties: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, bool]]:
        """Extract new decisions from user properties; any crossing may be refused."""
        pairs = self.domains.pairs
        changes: dict[str, dict[str, bool]] = {}
        for person, described in properties.items():
            decided = {
                name: value
                for key, value in described.items()
                if key.startswith(PROPERTY)
                and isinstance(value, bool)
                and (
                    (name := key.removeprefix(PROPERTY)) in EVERYTHING
                    or (is_crossing(name) if value is False else name in pairs)
                )
            }
            known = self.consents.said(person) if decided else {}
            if any(known.get(purpose) is not agrees for purpose, agrees in decided.items()):
                changes[person] = decided
        return changes

    def history(self, person: str) -> Sequence[Decision]:
        """Read all decisions of a user, oldest first."""
        query = sa.select(consent_decisions).where(_table.person == person)
        return [_decision(row) for row in self._metadata.fetch(query.order_by(_table.version))]

    def erase(self, person: str) -> int:
        """Delete all decisions of a user and return their number.

        Other processes cache them until their next start, but suppression overrides decisions. The
        row with the highest version stays, blank: were its number reused, other processes would
        skip the next decision.
        """
        highest = sa.select(sa.func.max(_table.version))

        def change(connection: sa.Connection) -> int:
            latest = connection.execute(highest).scalar() or 0
            own = _table.person == person
            blank = {"person": _NOBODY, "purposes": "{}", "source": ""}
            kept = sa.update(consent_decisions).where(own, _table.version == latest)
            deleted = connection.execute(kept.values(**blank)).rowcount
            old = sa.or_(own, _table.person == _NOBODY)
            earlier = sa.select(sa.func.count()).where(own)
            deleted += int(connection.execute(earlier).scalar() or 0)
            connection.execute(sa.delete(consent_decisions).where(old, _table.version < latest))
            return deleted

        deleted = self._metadata.change(change)
        self.consents.forget(person)
        return deleted


async def record_described(
    consents: ConsentStore, permissions: Permissions, users: Sequence[User]
) -> Collection[str]:
    """Record the decisions in the properties of users, before the users are appended.

    The result is the ids of the users of whom nothing may be kept.

    Raises:
        ProblemError: if they cannot be recorded: then the users are refused, too.
    """
    erased = permissions.is_erased
    described = {u.user_id: u.properties for u in users if not erased(u.user_id)}
    decisions = consents.new_decisions(described)
    try:
        if decisions:
            await asyncio.to_thread(consents.record_many, decisions, source="users")
    except StorageError as error:
        logger.error("consent cannot be recorded: %s", error)
        raise ProblemError(
            "not_ready", "consent cannot be recorded now; send it again", retry_after=2
        ) from None
    return {
        user.user_id for user in users if Purpose.SERVICE not in permissions.of_key(user.user_id)
    }


def default_purposes(settings: Settings) -> frozenset[Purpose]:
    """Return the purposes allowed for users without a decision, by the settings."""
    chosen = settings.consent.default
    if chosen == "auto":
        return EVERYTHING if settings.server.dev else NOTHING
    return EVERYTHING if chosen == "assume" else NOTHING


def open_consents(
    settings: Settings, metadata: MetadataStore, *, clock: Callable[[], int], beside: bool = False
) -> ConsentStore:
    """Read all decisions, with the crossings and the default of the settings.

    With `beside` the default is that of a server that runs on the data directory.
    """
    default = served_purposes(settings) if beside else default_purposes(settings)
    return ConsentStore(metadata, default, clock=clock, domains=settings.domains)


def served_purposes(settings: Settings) -> frozenset[Purpose]:
    """Return what a running server allows users without a decision, or else `default_purposes`.

    Options of `tactful serve`, such as --dev, are in no file that another command reads.
    """
    note = note_of_holder(settings.storage.data)
    if not note.startswith(_NOTE):
        return default_purposes(settings)
    return parse_purposes(note.removeprefix(_NOTE).decode().split())


def note_of_server(settings: Settings) -> bytes:
    """Return the note for `served_purposes` that a server leaves at its data directory."""
    return _NOTE + " ".join(sorted(default_purposes(settings))).encode()


def _decision(row: sa.Row[Any]) -> Decision:
    purposes = json.loads(row.purposes)
    return Decision(
        version=row.version,
        person=row.person,
        # Purposes of a later version are ignored.
        purposes={
            name: agrees
            for name, agrees in purposes.items()
            if name in EVERYTHING or is_crossing(name)
        },
        at=row.at,
        source=row.source,
    )
