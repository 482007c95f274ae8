"""Oracle of identity: computes the user of each event from all entries so far."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from tactful_streaming.contract.log_entries import Entry, Event, User
from tactful_streaming.identity.resolver import CONSENT_PROPERTY, Identity

UNNAMED = ""


@dataclass
class NaiveIdentity:
    """Labels of events; a label changes when a user claims an unclaimed device."""

    identity: Identity
    marks: dict[str, list[tuple[int, int, str | None, bool]]] = field(default_factory=dict)
    consents: dict[str, bool] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    newest: int = 0
    number: int = 0

    def feed(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.number += 1
            if isinstance(entry, User):
                self._describe(entry)
            elif isinstance(entry, Event):
                self.newest = max(self.newest, entry.timestamp)
                self.events.append(entry)
                self.labels.append(self._label(entry))
                self._learn(entry)

    def relabelled(self) -> list[Event]:
        """The events as if everybody had named themselves from the beginning."""
        return [
            replace(event, user_id=label)
            for event, label in zip(self.events, self.labels, strict=True)
        ]

    def label_of(self, device: str, at: int) -> str:
        """Label of an anonymous event of `device` at `at`, were it to come now."""
        marks = sorted(self.marks.get(device, []))
        if not marks or marks[-1][0] + self.identity.ttl_ms <= self.newest:
            return f"device:{device}"
        holder: tuple[int, int, str | None, bool] | None = None
        for mark in [mark for mark in marks if mark[0] <= at]:
            if not mark[3]:
                holder = mark
            elif holder is not None and mark[2] in (None, holder[2]):
                holder = None
        if holder is not None and at >= holder[0] + self.identity.ttl_ms:
            holder = None
        later = [mark for mark in marks if mark[0] > at and not mark[3]]
        found = holder or (later[0] if later else None)
        if found is None:
            return f"device:{device}"
        user = found[2]
        assert user is not None
        return user if user != UNNAMED and self._may_link(user) else f"device:{device}\x1f"

    def _label(self, event: Event) -> str:
        if event.user_id is not None:
            return event.user_id
        assert event.device_id is not None
        return self.label_of(event.device_id, event.timestamp)

    def _learn(self, event: Event) -> None:
        ends = event.type in self.identity.logouts
        user = event.user_id
        begins = event.type in self.identity.logins and user is not None
        if event.device_id is None or not (begins or ends):
            return
        if user is not None and not self._may_link(user):
            user = UNNAMED
        marks = self.marks.setdefault(event.device_id, [])
        if marks and max(marks)[0] + self.identity.ttl_ms <= self.newest:
            marks.clear()  # long silent: known of no more
        if event.timestamp + self.identity.ttl_ms <= self.newest:
            return
        if (event.timestamp, user, ends) in [(mark[0], *mark[2:]) for mark in marks]:
            return
        mark = (event.timestamp, self.number, user, ends)
        if ends:
            marks.append(mark)
            return
        last = all(other[3] for other in marks if other > mark)
        over = any(other > mark and other[2] in (None, user) for other in marks if other[3])
        marks.append(mark)
        if last:
            claim = f"device:{event.device_id}\x1f" if over or user == UNNAMED else user
            assert claim is not None
            self.labels = [
                claim if label == f"device:{event.device_id}" else label for label in self.labels
            ]

    def _describe(self, user: User) -> None:
        consent = user.properties.get(CONSENT_PROPERTY)
        if isinstance(consent, bool):
            self.consents[user.user_id] = consent
            if not consent:
                for device, marks in self.marks.items():
                    if not any(mark[2] == user.user_id and not mark[3] for mark in marks):
                        continue
                    self.marks[device] = [
                        (*mark[:2], UNNAMED, mark[3]) if mark[2] == user.user_id else mark
                        for mark in marks
                    ]

    def _may_link(self, user: str) -> bool:
        return self.consents.get(user, not self.identity.consent_required)


def people(entries: Sequence[Entry]) -> list[str]:
    """Ids of all named users."""
    return sorted({e.user_id for e in entries if isinstance(e, Event) and e.user_id is not None})


def devices(entries: Sequence[Entry]) -> list[str]:
    """All devices."""
    found = {e.device_id for e in entries if isinstance(e, Event) and e.device_id is not None}
    return sorted(found)
