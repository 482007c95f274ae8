"""Device links: the holder of a device over event time, from logins and logouts.

A device changes hands. It has a short list of marks: a user holds it from this time on, or no
longer. The user of an anonymous event follows from the event's own timestamp, so a late login makes
no difference for later events::

    marks   login ada 10:00   logout 12:00           login bob 15:00
    user    ada ──────────────┤ bob (next login) ────┤ bob ─────────

Events while nobody held the device belong to the next user who logs in, never to the last one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from operator import attrgetter
from typing import Final

import msgspec

from tactful_streaming.state.key_layout import DEVICE, DEVICES_OF, REBUILD, unpacked
from tactful_streaming.state.store import Change, StateStore

UNNAMED = ""  # stands for a user without a name: one who refuses links, or is not remembered
_MOST_CACHED = 50_000
_SWEEP = 256

_timestamp = attrgetter("timestamp")


class Mark(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A time at which the holder of a device changed or was confirmed."""

    timestamp: int  # epoch milliseconds
    user_id: str | None  # holder from then on, or, if `ends`, until then; None ends any link
    ends: bool = False  # whether the user no longer holds the device


class DeviceMarks(msgspec.Struct, array_like=True):
    """Marks of one device by time, those of equal times in the order in which they came."""

    marks: list[Mark] = []
    floor: int = 0  # times before, epoch milliseconds, are not remembered

    def owner(self, at: int, ttl_ms: int) -> str | None:
        """Return the holder at time `at`, else the next user to log in; None if there is none yet.

        :data:`UNNAMED` stands for a user without a name. A user holds the device for `ttl_ms` after
        a login.
        """
        if at < self.floor:
            return UNNAMED
        place = bisect_right(self.marks, at, key=_timestamp)
        holder = _holder(self.marks[:place])
        if holder is not None and at < holder.timestamp + ttl_ms:
            return holder.user_id
        return next((mark.user_id for mark in self.marks[place:] if not mark.ends), None)

    def add(self, mark: Mark, *, most: int, ttl_ms: int, newest: int) -> str | None:
        """Add a mark, which may be older than others; a repeated one changes nothing.

        At most `most` marks are kept: those between logins of one user are removed first. `newest`
        is the newest event timestamp so far, epoch milliseconds.

        Returns:
            The user who claims the unclaimed history: the one who logs in, unless another has
            logged in later or no history can have gathered. :data:`UNNAMED` if the user has left
            again: events before and after cannot be separated.
        """
        if mark in self.marks or mark.timestamp < self.floor:
            return None
        before = _holder(self.marks)
        place = bisect_right(self.marks, mark.timestamp, key=_timestamp)
        self.marks.insert(place, mark)
        last = _holder(self.marks)
        claims = not mark.ends and all(later.ends for later in self.marks[place + 1 :])
        self._thin(most)
        if not claims or (
            before is not None
            and before.user_id == mark.user_id
            and newest < before.timestamp + ttl_ms
        ):
            return None
        return mark.user_id if last is mark else UNNAMED

    def disown(self, user_id: str) -> None:
        """Replace `user_id` by :data:`UNNAMED` in all marks."""
        self.marks = [
            Mark(mark.timestamp, UNNAMED, mark.ends) if mark.user_id == user_id else mark
            for mark in self.marks
        ]

    def _thin(self, most: int) -> None:
        marks = self.marks
        while len(marks) > most:
            for place in range(1, len(marks) - 1):
                if len({(mark.user_id, mark.ends) for mark in marks[place - 1 : place + 2]}) == 1:
                    del marks[place]
                    break
            else:
                logins = (n for n, mark in enumerate(marks) if n and not mark.ends)
                del marks[: next(logins, 1)]
                self.floor = marks[0].timestamp


_UNREAD: Final = DeviceMarks()  # stands for marks that are in the store alone


class DeviceLinks:
    """The marks of all devices, and the devices of each user, in the store.

    Memory holds recently used ones alone, so it does not grow with the number of devices. A device
    whose newest mark is older than the time to live is deleted.
    """

    def __init__(self, store: StateStore, *, ttl_ms: int) -> None:
        """Read from `store`; links live for `ttl_ms` of event time."""
        self._store = store
        self._ttl_ms = ttl_ms
        self._devices: dict[str, DeviceMarks | None] = {}
        self._devices_of: dict[str, dict[str, int]] = {}
        self._dirty_devices: set[str] = set()
        self._dirty_users: set[str] = set()
        self._sweep_from = {DEVICE: DEVICE, DEVICES_OF: DEVICES_OF}
        self.is_empty = next(iter(store.scan(DEVICE)), None) is None

    def prepare(self, devices: Collection[str]) -> None:
        """Read many devices at once, before they are used."""
        absent = [device for device in devices if device not in self._devices]
        blobs = self._store.get_many([_key(DEVICE, device) for device in absent])
        for device, blob in zip(absent, blobs, strict=True):
            self._devices[device] = _decode_device(blob) if blob is not None else None

    def marks(self, device: str, newest: int) -> DeviceMarks | None:
        """Return the marks of a device; None if there are none or they have expired."""
        known = self._devices.get(device, _UNREAD)
        if known is _UNREAD:
            blob = self._store.get(_key(DEVICE, device))
            known = _decode_device(blob) if blob is not None else None
        if known is None or known.marks[-1].timestamp + self._ttl_ms <= newest:
            return None
        return known

    def add(
        self, device: str, mark: Mark, newest: int, *, most_marks: int, most_devices: int
    ) -> str | None:
        """Add a mark of a device; return the claimant as :meth:`DeviceMarks.add`.

        A user has at most `most_devices`: the one with the oldest login is unlinked.
        """
        known = self.marks(device, newest) or DeviceMarks()
        if mark.timestamp + self._ttl_ms <= newest:
            return None
        claim = known.add(mark, most=most_marks, ttl_ms=self._ttl_ms, newest=newest)
        self._devices[device] = known
        self._dirty_devices.add(device)
        self.is_empty = False
        if not mark.ends and mark.user_id is not None and mark.user_id != UNNAMED:
            devices = self._of(mark.user_id, newest)
            devices[device] = max(mark.timestamp, devices.get(device, 0))
            self._dirty_users.add(mark.user_id)
            while len(devices) > most_devices:
                oldest = min(devices, key=lambda name: (devices[name], name))
                del devices[oldest]
                self._disown(oldest, mark.user_id, newest)
                if oldest == device:
                    claim = UNNAMED if claim == mark.user_id else claim
        return claim

    def unlink(self, user_id: str, newest: int) -> None:
        """Unlink all devices of a user: their later events belong to nobody."""
        for device in self._of(user_id, newest):
            self._disown(device, user_id, newest)
        self._devices_of[user_id] = {}
        self._dirty_users.add(user_id)

    def drop(self, users: Iterable[str], devices: Iterable[str]) -> None:
        """Remove users and devices from memory; they are read from the store again."""
        for user_id in users:
            self._devices_of.pop(user_id, None)
        for device in devices:
            self._devices.pop(device, None)

    def devices_of(self, user_id: str, newest: int) -> tuple[str, ...]:
        """Return the devices on which a user has logged in, by id."""
        return tuple(sorted(self._living(user_id, newest)))

    def changes(self, newest: int) -> Iterator[Change]:
        """Yield the writes of a commit; deletes a bounded number of expired ones."""
        for device in self._dirty_devices:
            marks = self._devices[device]
            yield _key(DEVICE, device), None if marks is None else msgspec.msgpack.encode(marks)
        for user_id in self._dirty_users:
            devices = self._devices_of[user_id]
            packed = msgspec.msgpack.encode(devices) if devices else None
            yield _key(DEVICES_OF, user_id), packed
        dirty = {_key(DEVICE, device) for device in self._dirty_devices}
        dirty |= {_key(DEVICES_OF, user_id) for user_id in self._dirty_users}
        ends: dict[bytes, Callable[[bytes], int]] = {
            DEVICE: lambda blob: _decode_device(blob).marks[-1].timestamp,
            DEVICES_OF: lambda blob: max(decode_devices(blob).values(), default=0),
        }
        for prefix, last in ends.items():
            start = self._sweep_from.pop(prefix, prefix)
            for number, (key, blob) in enumerate(self._store.scan(prefix, start)):
                if number == _SWEEP:
                    self._sweep_from[prefix] = key
                    break
                if key not in dirty and last(blob) + self._ttl_ms <= newest:
                    yield key, None

    def mark_committed(self) -> None:
        """Note that the last :meth:`changes` are in the store."""
        self._dirty_devices.clear()
        self._dirty_users.clear()
        if len(self._devices) > _MOST_CACHED:
            self._devices.clear()
        if len(self._devices_of) > _MOST_CACHED:
            self._devices_of.clear()

    def _of(self, user_id: str, newest: int) -> dict[str, int]:
        """Return the devices of a user to be changed; they stay in memory."""
        devices = self._devices_of[user_id] = self._living(user_id, newest)
        return devices

    def _living(self, user_id: str, newest: int) -> dict[str, int]:
        devices = self._devices_of.get(user_id)
        if devices is None:
            blob = self._store.get(_key(DEVICES_OF, user_id))
            devices = decode_devices(blob) if blob is not None else {}
        return {d: last for d, last in devices.items() if last + self._ttl_ms > newest}

    def _disown(self, device: str, user_id: str, newest: int) -> None:
        known = self.marks(device, newest)
        if known is not None:
            known.disown(user_id)
            self._devices[device] = known
            self._dirty_devices.add(device)


def _holder(marks: Collection[Mark]) -> Mark | None:
    """Return the login of the holder after `marks`; None if there is no holder."""
    holder: Mark | None = None
    for mark in marks:
        if not mark.ends:
            holder = mark
        elif holder is not None and mark.user_id in (None, holder.user_id):
            holder = None
    return holder


def _key(prefix: bytes, name: str) -> bytes:
    return prefix + name.encode()


_device_decoder = msgspec.msgpack.Decoder(DeviceMarks)
_devices_decoder = msgspec.msgpack.Decoder(dict[str, int])


def _decode_device(blob: bytes) -> DeviceMarks:
    problem = "the stored links of a device are damaged"
    return unpacked(_device_decoder, blob, problem, f"; {REBUILD}")


def holders_of(blob: bytes) -> frozenset[str]:
    """Return the users in the stored marks of a device, maybe with :data:`UNNAMED`."""
    return frozenset(m.user_id for m in _decode_device(blob).marks if m.user_id is not None)


def decode_devices(blob: bytes) -> dict[str, int]:
    """Return the stored devices of a user, with the time of the last login on each."""
    problem = "the stored devices of a user are damaged"
    return unpacked(_devices_decoder, blob, problem, f"; {REBUILD}")
