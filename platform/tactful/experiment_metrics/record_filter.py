"""Decide by few fields whether a record of the log can count, so that most are not decoded.

```text
{"kind": "event", "type": "impression", …, "properties": {"experiment": "ranking", …}}
{"kind": "restricted", …, "event": {"type": "x.share", …}}
```
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from tactful.event_log.impressions import SHOWN
from tactful.event_log.recipients import LOGINS
from tactful.experiments.metrics import ROLLOUTS
from tactful.flags.exposures import EXPOSURE
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import is_json

LINKING = (*(mark.decode() for mark in LOGINS), EXPOSURE)
"""First letters of the types of events that connect a device with a user."""


class _Properties(msgspec.Struct, frozen=True):
    """Properties that name the experiments of a recommendation or decision."""

    experiment: Any = None
    rollouts: Any = msgspec.field(default=None, name=ROLLOUTS)


class _Event(msgspec.Struct, frozen=True):
    """Fields of an event that say what it is."""

    type: str = ""
    properties: _Properties = _Properties()


class _Record(_Event, frozen=True):
    """The same of a record; `event` is that of a restricted one."""

    kind: str = ""
    event: _Event = _Event()


_from_msgpack = msgspec.msgpack.Decoder(_Record).decode
_from_json = msgspec.json.Decoder(_Record).decode


class RecordFilter:
    """Selects the records that can count for one experiment."""

    def __init__(self, experiment: str, types: Collection[str], *, users: bool) -> None:
        """Select events of some types, those of the experiment, and descriptions of `users`."""
        self._experiment = experiment
        self._types = frozenset(types)
        self._users = users

    def selects(self, payload: bytes, *, early: bool = False) -> bool:
        """Return whether a record can count; of `early` ones only logins and users do."""
        try:
            record = (_from_json if is_json(payload) else _from_msgpack)(payload)
        except (ValueError, *DECODE_ERRORS):
            return False
        if record.kind not in ("event", "restricted"):
            return self._users and record.kind == "user"
        event = record if record.kind == "event" else record.event
        if early:
            return event.type.startswith(LINKING[:-1])
        if event.type in self._types or event.type.startswith(LINKING):
            return True
        return event.type in SHOWN and self._names(event.properties)

    def _names(self, properties: _Properties) -> bool:
        rollouts = properties.rollouts if isinstance(properties.rollouts, list) else ()
        drawn = (str(rollout).partition(":")[0] for rollout in rollouts)
        return properties.experiment == self._experiment or self._experiment in drawn
