"""Tokens of devices, which prove that the server knows them, and the limit of new devices.

Everybody can read a browser key and make up device ids. So an exposure of a device decides
something only with a token, and an address gets tokens for a limited number of devices. A token is
22 bytes in base64url::

    time of issue, epoch ms (6) | BLAKE2b of time and unit under the key of the installation (16)

It proves one unit only, and nothing is stored of it.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

LIFETIME_MS = 400 * 86_400_000
"""Time for which a token is valid, the longest that browsers keep data that a page stores."""

_TIME, _SEAL = 6, 16
_PERSON = b"flags unit token"  # separates this use of the key from others
_EARLY_MS = 300_000  # lead of the clock of another server
_HOUR_S = 3_600.0
_ADDRESSES = 100_000
_NETWORK_V6 = 64  # bits that one subscriber has


class UnitTokens:
    """Makes and checks tokens; they are compared in constant time."""

    def __init__(self, key: bytes) -> None:
        """Use the key of an installation, 16 to 64 bytes."""
        self._key = key

    def issue(self, unit: str, now: int) -> str:
        """Return the token of a unit, such as ``device:d1``, at a time in epoch milliseconds."""
        issued = max(now, 0).to_bytes(_TIME)
        return base64.urlsafe_b64encode(issued + self._seal(issued, unit)).rstrip(b"=").decode()

    def issued_at(self, token: str, unit: str, now: int) -> int | None:
        """Return when the token of a unit was issued; None if it is no valid one of this unit."""
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:
            return None
        issued, seal = raw[:_TIME], raw[_TIME:]
        if len(seal) != _SEAL or not hmac.compare_digest(seal, self._seal(issued, unit)):
            return None
        at = int.from_bytes(issued)
        return at if at - _EARLY_MS <= now <= at + LIFETIME_MS else None

    def _seal(self, issued: bytes, unit: str) -> bytes:
        keyed = blake2b(digest_size=_SEAL, key=self._key, person=_PERSON)
        keyed.update(issued)
        keyed.update(unit.encode("utf-8", "surrogatepass"))
        return keyed.digest()


class NewUnitLimit:
    """Limits the new devices of one key and address (GCRA, one hour's number at once).

    Addresses are kept as keyed hashes, the latest 100,000, each with the time by which all that
    was counted would have come at the allowed rate.
    """

    def __init__(self, per_hour: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Allow a number of new devices an hour; 0 for no limit. `clock` is in seconds."""
        self._interval_s = _HOUR_S / per_hour if per_hour else 0.0
        self._clock = clock
        self._secret = secrets.token_bytes(16)
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def admits(self, key: str, address: str) -> bool:
        """Count a new device of a key and address; return False if there were too many."""
        if not self._interval_s:
            return True
        sender = f"{key}\0{subscriber(address)}".encode()
        cell = blake2b(sender, digest_size=16, key=self._secret).digest()
        now = self._clock()
        until = max(self._until.get(cell, 0.0), now) + self._interval_s
        if until > now + _HOUR_S + self._interval_s / 2:
            return False
        self._until[cell] = until
        self._until.move_to_end(cell)
        if len(self._until) > _ADDRESSES:
            self._until.popitem(last=False)
        return True


def subscriber(address: str) -> str:
    """Return the part of an address that one subscriber has: of IPv6 the first 64 bits.

    >>> subscriber("192.0.2.7"), subscriber("2001:db8:1:2:3:4:5:6")
    ('192.0.2.7', '2001:db8:1:2::')
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    network = ipaddress.ip_network((int(parsed) >> _NETWORK_V6 << _NETWORK_V6, _NETWORK_V6))
    return str(network.network_address)
