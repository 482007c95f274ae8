"""Flags of a running server: the present version, its changes, and those who wait for the next.

`refresh`, `apply`, `kill` and `revive` use the database and are called in threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Literal

from tactful.flags.definitions import FlagDefinitions, read_definitions, refuse_changed
from tactful.flags.differences import differences, fingerprints
from tactful.flags.payloads import PayloadSigner
from tactful.flags.served import serve, without_killed
from tactful.flags.store import Draft, FlagStore, FlagVersion
from tactful.flags.streams import HEARTBEAT_S
from tactful.flags.verify import KnownVersion
from tactful.schemas.experiments.flags import FlagDifference, FlagKill, FlagsApplied, FlagsFile
from tactful_bandits.flags import Features

_DONE: Mapping[str, Literal["killed", "revived"]] = {"kill": "killed", "revive": "revived"}
_RECENT = 100  # versions whose exposures can be verified


class FlagService:
    """The flags of one server.

    Attributes:
        served: the present version.
        versions: recent versions by number, to verify exposures.
        changed_at: time of the latest version that changed a flag, by flag, epoch milliseconds.
    """

    def __init__(self, store: FlagStore, *, clock: Callable[[], int]) -> None:
        """Read the present version from a store; `clock` is in epoch milliseconds."""
        self.store = store
        self._clock = clock
        self.secrets = store.secrets()
        self.signer = PayloadSigner(self.secrets.signing)
        self.served = serve(None, self.signer, self.secrets.salt)
        self.versions: Mapping[int, KnownVersion] = {}
        self.changed_at: Mapping[str, int] = {}
        self._refreshing = threading.Lock()
        self._announced = 0
        self._next: asyncio.Future[None] | None = None
        self.refresh()

    def refresh(self) -> bool:
        """Read a version that any server added; return whether there was one."""
        # Of two threads the later one might put the version before back.
        with self._refreshing:
            recent = self.store.recent(_RECENT, after=self.served.number)
            if not recent:
                return False
            # Exposures of a version may come as soon as it is served.
            self.versions = _known(recent, self.versions)
            self.changed_at = self._times_of_changes()
            self.served = serve(recent[0], self.signer, self.secrets.salt)
            return True

    def apply(self, file: FlagsFile, *, by: str) -> FlagsApplied:
        """Apply the definitions of a file as the next version, or only check them.

        Raises:
            ConfigError: if they are invalid, or change an experiment that units are in.
        """
        definitions = read_definitions(file.definitions, file.name)
        found: list[FlagDifference] = []
        make = _applied(definitions, file, found)
        if file.check:
            make(self.store.latest())
            return FlagsApplied(
                version=self.store.number, changed=bool(found), differences=[*found]
            )
        added = self.store.add(make, by=by)
        self.refresh()
        number = self.served.number if added is None else added.version
        return FlagsApplied(version=number, changed=added is not None, differences=[*found])

    def kill(self, key: str, reason: str, *, by: str) -> FlagVersion | None:
        """Give every unit the default value of a flag; None if it is so.

        Raises:
            KeyError: if no flag has this key.
        """
        kill = FlagKill(at=self._clock(), by=by, reason=reason)
        return self._switch("kill", key, reason, by, lambda killed: {**killed, key: kill})

    def revive(self, key: str, reason: str, *, by: str) -> FlagVersion | None:
        """End the kill of a flag; see `kill`."""
        return self._switch(
            "revive",
            key,
            reason,
            by,
            lambda killed: {name: kill for name, kill in killed.items() if name != key},
        )

    def _switch(
        self,
        action: Literal["kill", "revive"],
        key: str,
        reason: str,
        by: str,
        change: Callable[[Mapping[str, FlagKill]], Mapping[str, FlagKill]],
    ) -> FlagVersion | None:
        def make(before: FlagVersion | None) -> Draft | None:
            definitions = None
            if before is not None:
                definitions = read_definitions(before.definitions, before.file)
            if before is None or definitions is None or key not in definitions.flags:
                raise KeyError(key)
            killed = change(before.killed)
            if killed.keys() == before.killed.keys():
                return None
            return Draft(
                action=action,
                target=key,
                reason=reason,
                file=before.file,
                definitions=before.definitions,
                payload=without_killed(
                    definitions.payload, killed, definitions.payload["features"]
                ),
                killed=killed,
                experiments=before.experiments,
                differences=[FlagDifference(flag=key, change=_DONE[action])],
            )

        added = self.store.add(make, by=by)
        self.refresh()
        return added

    def announce(self) -> None:
        """Wake those who wait for a version, if it is another one; called on the event loop."""
        if self._announced == self.served.number:
            return
        self._announced = self.served.number
        waiting, self._next = self._next, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def newer(self, number: int, timeout_s: float = HEARTBEAT_S) -> int:
        """Return the present version once it is not `number`, or after a time."""
        if self.served.number == number:
            if self._next is None:
                self._next = asyncio.get_running_loop().create_future()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._next), timeout_s)
        return self.served.number

    def _times_of_changes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for row in self.store.changes():
            for difference in row.differences:
                found.setdefault(difference.flag, row.at)
        return found


def _applied(
    definitions: FlagDefinitions, file: FlagsFile, found: list[FlagDifference]
) -> Callable[[FlagVersion | None], Draft | None]:
    """Return a function that drafts the version of a file; it fills `found`."""

    def make(before: FlagVersion | None) -> Draft | None:
        payload, experiments = definitions.payload, dict[str, str]()
        former: Mapping[str, Any] = {}
        killed: dict[str, FlagKill] = {}
        if before is not None:
            former = read_definitions(before.definitions, before.file).written
            killed = {key: it for key, it in before.killed.items() if key in definitions.flags}
            experiments = dict(before.experiments)
        found[:] = differences(former, definitions.written)
        present = fingerprints(payload["features"])
        refuse_changed(definitions, experiments, present)
        if not found and before is not None:
            return None
        return Draft(
            action="apply",
            target=file.name,
            reason=file.reason,
            file=file.name,
            definitions=file.definitions,
            payload=without_killed(payload, killed, payload["features"]),
            killed=killed,
            experiments=experiments | present,
            differences=[*found],
        )

    return make


def _known(added: list[FlagVersion], held: Mapping[int, KnownVersion]) -> dict[int, KnownVersion]:
    """Return the recent versions with the times in which they were served.

    Args:
        added: versions after those that are held, newest first.
        held: versions so far, newest first.
    """
    ends: int | None = None
    found: dict[int, KnownVersion] = {}
    for version in added:
        features = Features.from_payload(version.payload)
        found[version.version] = KnownVersion(features, version.at, ends)
        ends = version.at
    for number, known in held.items():
        found[number] = known if known.ends is not None else known._replace(ends=ends)
    return dict(islice(found.items(), _RECENT))
