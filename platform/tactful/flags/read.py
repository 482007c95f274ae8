"""State, rules and history of flags, as messages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from tactful.flags.definitions import FlagDefinitions
from tactful.flags.differences import experiment_key
from tactful.flags.reasons import rules_in_words
from tactful.flags.served import ServedFlags
from tactful.flags.service import FlagService
from tactful.flags.uses import PAYLOAD, FlagUses, stale_reasons
from tactful.schemas.experiments.flags import FlagChange, FlagDetails, FlagInfo

_HISTORY = 100


class FlagReader:
    """Reads the flags of a server; methods are called in threads.

    They raise StorageError if the database cannot be used.
    """

    def __init__(self, service: FlagService, uses: FlagUses, *, clock: Callable[[], int]) -> None:
        """Read from a service; `clock` is in epoch milliseconds."""
        self._service = service
        self._uses = uses
        self._clock = clock

    def all(self) -> tuple[ServedFlags, list[FlagInfo]]:
        """Return the present version and its flags, by key."""
        served = self._service.served
        definitions = served.definitions
        if definitions is None:
            return served, []
        return served, [self._info(served, definitions, key) for key in sorted(definitions.flags)]

    def details(self, key: str) -> FlagDetails | None:
        """Return a flag with its rules and its history; None if there is none."""
        served = self._service.served
        definitions = served.definitions
        if definitions is None or key not in definitions.flags:
            return None
        feature = definitions.payload["features"][key]
        use = self._uses.of(key)
        return FlagDetails(
            flag=self._info(served, definitions, key),
            owner=definitions.flags[key].owner,
            rules=rules_in_words(feature),
            definition=feature,
            killed=served.killed.get(key),
            evaluated_at=None if use is None else use.last_at // 60_000 * 60_000,
            history=self._history(key),
        )

    def _history(self, key: str) -> list[FlagChange]:
        found = [
            FlagChange(
                version=change.version,
                at=change.at,
                by=change.author,
                action=change.action,
                reason=change.reason,
                change=difference.change,
                lines=difference.lines,
            )
            for change in self._service.store.changes()
            for difference in change.differences
            if difference.flag == key
        ]
        return found[:_HISTORY]

    def _info(self, served: ServedFlags, definitions: FlagDefinitions, key: str) -> FlagInfo:
        about, feature = definitions.flags[key], definitions.payload["features"][key]
        rules = feature.get("rules") or []
        now, payload = self._clock(), self._uses.of(PAYLOAD)
        changed_at = self._service.changed_at.get(key, served.at)
        expires = None if about.expires is None else about.expires.isoformat()
        found = [experiment_key(key, rule) for rule in rules if "variations" in rule]
        return FlagInfo(
            key=key,
            kind=about.kind,
            description=about.description,
            state="killed" if key in served.killed else "on",
            default=feature.get("defaultValue"),
            rules=len(rules),
            experiments=[*dict.fromkeys(found)],
            remote=key in served.remote,
            changed_at=changed_at,
            expires=expires,
            stale=stale_reasons(
                feature,
                expires=expires,
                changed_at=changed_at,
                use=self._uses.of(key),
                payload_at=None if payload is None else payload.last_at,
                today=dt.datetime.fromtimestamp(now / 1_000, dt.UTC).date().isoformat(),
                now=now,
            ),
        )
