"""Search of a log for the records that one import brought."""

from __future__ import annotations

from dataclasses import dataclass

from tactful.config.settings import Settings
from tactful.erasure.offline_stores import open_search
from tactful.subjects.trace_search import decoded
from tactful.util.clock import now_ms
from tactful_streaming.contract.log_entries import (
    Item,
    User,
    decode_entry,
    import_of,
    named_keys,
)
from tactful_streaming.errors import StreamingError

_ITEMS = frozenset({b"\xa4kind\xa4item", b'"kind":"item"'})


@dataclass(frozen=True)
class ImportRecords:
    """Records of one import, an owner for `tactful.erasure.rewrite_log`.

    ::

        ImportRecords("9f3c…", people={"ada", "device:d-1"}, events=2, users=1,
                      restored={"tea"}, withdrawn={"teapot"})
    """

    import_id: str
    people: frozenset[str] = frozenset()  # keys of the users and devices that they name
    events: int = 0
    users: int = 0  # descriptions of users
    items: int = 0  # descriptions of items
    restored: frozenset[str] = frozenset()  # items that others have described, too
    withdrawn: frozenset[str] = frozenset()  # items that only this import has described

    @property
    def needles(self) -> frozenset[bytes]:
        """Bytes that occur in each record that is not sealed."""
        return frozenset({self.import_id.encode()})

    @property
    def keys(self) -> frozenset[str]:
        """Keys under which records may be sealed."""
        return self.people

    @property
    def records(self) -> int:
        """Number of records."""
        return self.events + self.users + self.items

    def owns_payload(self, offset: int, payload: bytes) -> bool:
        """Return whether a record is of the import; a damaged one matches by its bytes."""
        try:
            return import_of(decode_entry(payload)) == self.import_id
        except StreamingError:
            return self.import_id.encode() in payload


def find_import(settings: Settings, import_id: str) -> ImportRecords:
    """Search the log for the records of an import, also while a server runs.

    Raises:
        LogError: if the log cannot be read.
    """
    people: set[str] = set()
    items: set[str] = set()
    events = users = descriptions = 0
    with open_search(settings, clock=now_ms) as search:
        for _, payload in search(frozenset({import_id.encode()})):
            entry = decoded(payload)
            if entry is None or import_of(entry) != import_id:
                continue
            people.update(named_keys(entry))
            if isinstance(entry, Item):
                items.add(entry.item_id)
                descriptions += 1
            elif isinstance(entry, User):
                users += 1
            else:
                events += 1
        others: set[str] = set()
        for _, payload in search(_ITEMS) if items else ():
            entry = decoded(payload)
            if isinstance(entry, Item) and import_of(entry) != import_id:
                others.add(entry.item_id)
    return ImportRecords(
        import_id,
        people=frozenset(people),
        events=events,
        users=users,
        items=descriptions,
        restored=frozenset(items & others),
        withdrawn=frozenset(items - others),
    )
