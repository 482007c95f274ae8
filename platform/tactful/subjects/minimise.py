"""Minimisation of events, users and requests: named fields lose detail before they are stored.

::

    properties.ip      203.0.113.77         ->  203.0.113.0        the network
    properties.email   ada@example.com      ->  pN3…(32)           a keyed hash
    properties.lat     52.5163              ->  52.5337            the centre of the cell
    context.postcode   10117                ->  10                 the first characters

A value that was minimised before stays the same, so an event may be sent again from a log or from
dead letters.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import ipaddress
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from tactful.config.privacy import MinimiseSettings
from tactful_privacy.errors import KeyringError
from tactful_privacy.people.pseudonyms import Keyring
from tactful_streaming.contract.log_entries import Item, Scalar

_DEGREE_KM = 111.195  # of a great circle on a sphere of radius 6,371 km
_DIGITS = 4
_HASH, _SEAL = 16, 8  # bytes
_Message = TypeVar("_Message", bound=msgspec.Struct)
_Fields = dict[str, Any]
_Change = Callable[[Scalar], Scalar]


class Minimiser:
    """Removes detail from the fields that the settings name. Items are unchanged."""

    def __init__(self, settings: MinimiseSettings, keyring: Callable[[], Keyring]) -> None:
        """Prepare; the keyring is opened if any field is hashed."""
        self._keyring = keyring() if settings.hash else None
        self._cell_km = settings.cell_km
        networks = {4: settings.ipv4_bits, 6: settings.ipv6_bits}
        count = settings.postcode_characters
        changes: Mapping[str, _Change] = {
            "truncate_ip": lambda value: network_of(value, networks),
            "hash": self._hashed,
            "drop": lambda value: None,
            "postcode": lambda value: _beginning(value, count),
        }
        # {"context": {"ip": change}}
        self._changes: dict[str, dict[str, _Change]] = {"properties": {}, "context": {}}
        for setting, change in changes.items():
            for part, name in settings.fields(setting):
                self._changes[part][name] = change
        # {"context": [("lat", "lon")]}
        self._places: dict[str, list[tuple[str, str]]] = {"properties": [], "context": []}
        pairs = zip(settings.fields("latitude"), settings.fields("longitude"), strict=True)
        for (part, latitude), (_, longitude) in pairs:
            self._places[part].append((latitude, longitude))
        self._named = {
            part: {*self._changes[part], *(name for pair in self._places[part] for name in pair)}
            for part in self._changes
        }

    def __call__(self, message: _Message) -> _Message:
        """Return an event, user or request with the named fields minimised."""
        if isinstance(message, Item):
            return message
        changed: dict[str, Any] = {}
        for part, names in self._named.items():
            fields = getattr(message, part, None)
            if fields and not names.isdisjoint(fields):
                changed[part] = self._minimised(part, fields)
        return msgspec.structs.replace(message, **changed) if changed else message

    def _minimised(self, part: str, sent: Mapping[str, Any]) -> _Fields:
        fields: _Fields = {}
        for name, value in sent.items():
            change = self._changes[part].get(name)
            if change is None:
                fields[name] = value
            elif isinstance(value, list):
                fields[name] = [it for it in map(change, value) if it is not None] or None
            else:
                fields[name] = change(value)
        for names in self._places[part]:
            if not fields.keys().isdisjoint(names):
                latitude, longitude = (_degrees(fields.get(name)) for name in names)
                cell = cell_of(latitude, longitude, self._cell_km)
                fields.update(zip(names, cell or (None, None), strict=True))
        return {k: v for k, v in fields.items() if v is not None or k not in self._named[part]}

    def _hashed(self, value: Scalar) -> str | None:
        """Return HMAC-SHA256 (RFC 2104) of a value, with a seal of the same key; 32 characters.

        A value with a valid seal is a hash already, and is returned unchanged.
        """
        if value is None or self._keyring is None:
            return None
        with contextlib.suppress(KeyringError):  # the keys that are in memory stay valid
            self._keyring.follow()
        text = str(value)
        if self._is_own(text):
            return text
        return self._hash(text, self._keyring.current)

    def stored_forms(self, field: str, value: str) -> set[str]:
        """Return the values that a text may be stored as in a field, ``properties.email``.

        A hashed field has a form for each epoch of the keys. Fields that lose detail otherwise are
        only found by what is stored.
        """
        part, _, name = field.partition(".")
        if self._keyring is None or self._changes.get(part, {}).get(name) != self._hashed:
            return {value}
        with contextlib.suppress(KeyringError):
            self._keyring.follow()
        return {value, *(self._hash(value, key_id) for key_id in self._keyring.key_ids)}

    def _hash(self, text: str, key_id: int) -> str:
        assert self._keyring is not None
        pseudonym = self._keyring.pseudonym(text, tenant="minimised", key_id=key_id)
        digest = pseudonym.digest[:_HASH]
        return base64.urlsafe_b64encode(digest + self._seal(digest, key_id)).decode()

    def _is_own(self, text: str) -> bool:
        if len(text) != (_HASH + _SEAL) * 4 // 3 or self._keyring is None:
            return False
        try:
            content = base64.urlsafe_b64decode(text)
        except ValueError:
            return False
        if base64.urlsafe_b64encode(content).decode() != text:
            return False  # another text for the same bytes
        digest, seal = content[:_HASH], content[_HASH:]
        keys = self._keyring.key_ids
        return any(hmac.compare_digest(seal, self._seal(digest, key_id)) for key_id in keys)

    def _seal(self, digest: bytes, key_id: int) -> bytes:
        assert self._keyring is not None
        sealed = self._keyring.pseudonym(digest.hex(), tenant="minimised seal", key_id=key_id)
        return sealed.digest[:_SEAL]


def make_minimiser(settings: MinimiseSettings, keyring: Callable[[], Keyring]) -> Minimiser | None:
    """Make the minimiser of an installation; None if no field is named."""
    lists = ("truncate_ip", "hash", "drop", "latitude", "postcode")
    named = any(True for setting in lists for _ in settings.fields(setting))
    return Minimiser(settings, keyring) if named else None


def network_of(value: Scalar, bits: Mapping[int, int]) -> str | None:
    """Return an IP address with only its first `bits` by version; None for anything else.

    An IPv4 address inside an IPv6 address (mapped, or 6to4) keeps no more than its own bits.
    """
    try:
        address = ipaddress.ip_address(value.strip()) if isinstance(value, str) else None
    except ValueError:
        return None
    if address is None:
        return None
    kept = bits[address.version]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address, kept = address.ipv4_mapped, bits[4]
        elif address.sixtofour is not None:
            kept = min(kept, 16 + bits[4])
    size = address.max_prefixlen
    return str(type(address)(int(address) >> (size - kept) << (size - kept)))


def cell_of(
    latitude: float | None, longitude: float | None, cell_km: float
) -> tuple[float, float] | None:
    """Return the centre of the cell of a place; None if it is no place on Earth.

    The cells of a row have equal widths, none smaller than `cell_km` at either edge, and the rows
    equal heights: about 111 km for a degree of latitude, times the cosine for one of longitude.
    """
    if latitude is None or longitude is None:
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 360):
        return None
    rows = max(int(180 * _DEGREE_KM / cell_km), 1)
    row = min(int((latitude + 90) / 180 * rows), rows - 1)
    south, north = (edge * 180 / rows - 90 for edge in (row, row + 1))
    width = 360 * _DEGREE_KM * math.cos(math.radians(max(abs(south), abs(north))))
    columns = max(int(width / cell_km), 1)
    column = min(int((longitude + 180) % 360 / 360 * columns), columns - 1)
    return (
        round((south + north) / 2, _DIGITS),
        round((column + 0.5) * 360 / columns - 180, _DIGITS),
    )


def _degrees(value: Any) -> float | None:
    """Return a number, also one in text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _beginning(value: Scalar, count: int) -> str | None:
    """Return the first characters of a text or a whole number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return "".join(str(value).split())[:count] or None
