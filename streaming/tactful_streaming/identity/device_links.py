"""Who holds a device when: marks in event time, made by logins and logouts.

A device changes hands. What is known of it is a short list of marks: from this moment on it is this
person's, from this moment on it is not any more. Whose an anonymous event of the device is follows
from its own timestamp, so it makes no difference for later events that a login comes late.

What happened while nobody held the device belongs to who logs in next, never to who has left.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from operator import attrgetter
from typing import Final

import msgspec

from tactful_streaming.errors import StateError
from tactful_streaming.state.key_layout import CURE, DEVICE, DEVICES_OF
from tactful_streaming.state.store import Change, StateStore

SOMEBODY = ""
"""Stands for a person who is not to be named: who refuses links, or is not remembered any more."""

_MOST_CACHED = 50_000
_SWEEP = 256

_timestamp = attrgetter("timestamp")


class Mark(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A moment at which it was known whose a device is.

    Attributes:
        timestamp: when, epoch milliseconds.
        user_id: whose it is from then on, or was until then; None, where it ends, for anybody's.
        ends: whether it is the person's no longer.
    """

    timestamp: int
    user_id: str | None
    ends: bool = False


class DeviceMarks(msgspec.Struct, array_like=True):
    """What is known of one device.

    Attributes:
        marks: in the order of their times; of equal times in the order in which they came.
        floor: what was before is not remembered, epoch milliseconds.
    """

    marks: list[Mark] = []
    floor: int = 0

    def owner(self, at: int, ttl_ms: int) -> str | None:
        """Whose an anonymous event of time `at` is.

        Args:
            at: epoch milliseconds.
            ttl_ms: how long after a login a person still holds the device.

        Returns:
            Who held the device then, else who logged in next; None if nobody has yet;
            :data:`SOMEBODY` if it was a person who is not to be named.
        """
        if at < self.floor:
            return SOMEBODY
        place = bisect_right(self.marks, at, key=_timestamp)
        holder = _holder(self.marks[:place])
        if holder is not None and at < holder.timestamp + ttl_ms:
            return holder.user_id
        return next((mark.user_id for mark in self.marks[place:] if not mark.ends), None)

    def add(self, mark: Mark, *, most: int, ttl_ms: int, newest: int) -> str | None:
        """Take a mark; one that is there already changes nothing.

        Args:
            mark: it may be older than others.
            most: of how many marks to keep; those in between logins of one person go first.
            ttl_ms: how long after a login a person still holds the device.
            newest: newest event timestamp so far, epoch milliseconds.

        Returns:
            Who claims the history that nobody has claimed: the person who logs in, unless somebody
            has logged in later or nobody's history can have gathered. :data:`SOMEBODY` if the
            person had left again: what came before cannot be told from what came after.
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
        return mark.user_id if last is mark else SOMEBODY

    def disown(self, user_id: str) -> None:
        """Forget who `user_id` was: what they held is somebody's."""
        self.marks = [
            Mark(mark.timestamp, SOMEBODY, mark.ends) if mark.user_id == user_id else mark
            for mark in self.marks
        ]

    def _thin(self, most: int) -> None:
        marks = self.marks
        while len(marks) > most:
            for place in range(1, len(marks) - 1):
                if _says(marks[place - 1]) == _says(marks[place]) == _says(marks[place + 1]):
                    del marks[place]
                    break
            else:
                logins = (n for n, mark in enumerate(marks) if n and not mark.ends)
                del marks[: next(logins, 1)]
                self.floor = marks[0].timestamp


_UNREAD: Final = DeviceMarks()
"""Stands in for what is in the store only."""


class Links:
    """The marks of all devices, and the devices of each person, in the store.

    What was not asked for lately is only there: memory does not grow with the number of devices.
    A device whose newest mark is older than the time to live is forgotten.
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
        """Read many devices at once that are going to be asked for."""
        absent = [device for device in devices if device not in self._devices]
        blobs = self._store.get_many([_key(DEVICE, device) for device in absent])
        for device, blob in zip(absent, blobs, strict=True):
            self._devices[device] = _decode_device(blob) if blob is not None else None

    def marks(self, device: str, newest: int) -> DeviceMarks | None:
        """What is known of a device when the newest event was at `newest`."""
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
        """Take a mark of a device; returns who claims its history, as :meth:`DeviceMarks.add`.

        A person has at most `most_devices`: the one that was theirs the longest time ago goes.
        """
        known = self.marks(device, newest) or DeviceMarks()
        if mark.timestamp + self._ttl_ms <= newest:
            return None
        claim = known.add(mark, most=most_marks, ttl_ms=self._ttl_ms, newest=newest)
        self._devices[device] = known
        self._dirty_devices.add(device)
        self.is_empty = False
        if not mark.ends and mark.user_id is not None and mark.user_id != SOMEBODY:
            devices = self._of(mark.user_id, newest)
            devices[device] = max(mark.timestamp, devices.get(device, 0))
            self._dirty_users.add(mark.user_id)
            while len(devices) > most_devices:
                oldest = min(devices, key=lambda name: (devices[name], name))
                del devices[oldest]
                self._disown(oldest, mark.user_id, newest)
                if oldest == device:
                    claim = SOMEBODY if claim == mark.user_id else claim
        return claim

    def forget(self, user_id: str, newest: int) -> None:
        """Unlink all devices of a person: what happens on them is nobody's from now on."""
        for device in self._of(user_id, newest):
            self._disown(device, user_id, newest)
        self._devices_of[user_id] = {}
        self._dirty_users.add(user_id)

    def drop(self, users: Iterable[str], devices: Iterable[str]) -> None:
        """Read people and devices from the store again when they are asked for."""
        for user_id in users:
            self._devices_of.pop(user_id, None)
        for device in devices:
            self._devices.pop(device, None)

    def devices_of(self, user_id: str, newest: int) -> tuple[str, ...]:
        """Devices that a person has logged in on, in the order of their ids."""
        return tuple(sorted(self._living(user_id, newest)))

    def changes(self, newest: int) -> Iterator[Change]:
        """What to write at a commit; bounded work for what is forgotten."""
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
        """The devices of a person, to be changed; unlike readers, it leaves them in memory."""
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
    """The login by which somebody holds the device after `marks`."""
    holder: Mark | None = None
    for mark in marks:
        if not mark.ends:
            holder = mark
        elif holder is not None and mark.user_id in (None, holder.user_id):
            holder = None
    return holder


def _says(mark: Mark) -> tuple[str | None, bool]:
    return mark.user_id, mark.ends


def _key(prefix: bytes, name: str) -> bytes:
    return prefix + name.encode()


_device_decoder = msgspec.msgpack.Decoder(DeviceMarks)
_devices_decoder = msgspec.msgpack.Decoder(dict[str, int])


def _decode_device(blob: bytes) -> DeviceMarks:
    try:
        return _device_decoder.decode(blob)
    except msgspec.MsgspecError as error:
        raise StateError(f"the stored links of a device are damaged: {error}; {CURE}") from error


def holders_of(blob: bytes) -> frozenset[str]:
    """Who has logged in on a device, as its stored marks tell; :data:`SOMEBODY` may be among them.

    Raises:
        StateError: if `blob` is something else.
    """
    return frozenset(m.user_id for m in _decode_device(blob).marks if m.user_id is not None)


def decode_devices(blob: bytes) -> dict[str, int]:
    """The stored devices of a user, each with the time of their last login on it.

    Raises:
        StateError: if `blob` is something else.
    """
    try:
        return _devices_decoder.decode(blob)
    except msgspec.MsgspecError as error:
        raise StateError(f"the stored devices of a user are damaged: {error}; {CURE}") from error
