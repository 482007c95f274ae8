"""Life cycles of the users of a server: read for conditions and pages, and followed for changes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tactful.config.privacy import DAY_MS
from tactful.lifecycle.changes import STAGE, change_of
from tactful.lifecycle.profile import (
    BY_WORKERS,
    DAYS,
    NAME,
    NO_CONSENT,
    SPENT,
    days_of,
    life_cycle,
)
from tactful.lifecycle.sample import VisitSample
from tactful.lifecycle.sources import sources_of
from tactful.lifecycle.stored import Fitted, FittedFile
from tactful.schemas.users import LifeCycle
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import APART, Event
from tactful_streaming.state.key_layout import entity_prefix
from tactful_streaming.windows.entity_table import PackedReader

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_USERS: Final = 200  # users who are read at once
_STEP_S: Final = 0.2  # a step ends after that
_HOUR_S, _MINUTE_S = 3_600.0, 60.0


class LifeCycles:
    """Life cycles of one server. `step` is called in a thread, one at a time; all else by any.

    A pass over the committed features of all users finds changes of stage and, if a fit is due,
    collects visits for it. Only users who agree to personalisation count.
    """

    def __init__(
        self,
        platform: Platform,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Follow the users of a platform; nothing is read before `step`."""
        self._platform = platform
        self._settings = platform.settings.lifecycle
        self._file = FittedFile(platform.settings.storage.data)
        self._monotonic = monotonic
        self._rng = rng or random.Random()
        self._pass: tuple[Iterator[tuple[str, bytes]], VisitSample] | None = None
        self._next_pass = self._next_fit = 0.0
        self._fitted_users = 0
        sources = sources_of(platform.engine.definitions)
        self._sources = frozenset(feature.name for feature in sources)
        self._reader = PackedReader(sources)

    def of(self, key: str, features: Mapping[str, Any], at: int) -> LifeCycle:
        """Return the life cycle of a user by the stored features at a time, epoch milliseconds.

        It is unknown without consent to personalisation, of a device and of the user who holds it.
        """
        holder = self._platform.permissions.holder(key, at)
        if not (self._personalises(key) and self._personalises(holder)):
            return LifeCycle(horizon_days=self._settings.horizon_days, reason=NO_CONSENT)
        usable = self._sources.difference(self._platform.engine.missing)
        computed = {name: value for name, value in features.items() if name in usable}
        fitted = self._file.read()
        if self._platform.backend.shared is not None and (fitted is None or fitted.model is None):
            days = self._settings.horizon_days
            fitted = Fitted(fitted_on=at // DAY_MS, horizon_days=days, people=0, reason=BY_WORKERS)
        return life_cycle(computed, at, fitted, self._settings)

    def added(self, key: str, features: Mapping[str, Any], at: int) -> dict[str, Any]:
        """Return features of a user with the life cycle as one more, empty without consent."""
        known = self.of(key, features, at)
        return {**features, NAME: {} if known.reason == NO_CONSENT else msgspec.to_builtins(known)}

    def read(self, key: str, at: int) -> dict[str, Any]:
        """Return the life cycle of a user at a time, as the value of the feature."""
        with self._platform.lock:
            features = dict(self._platform.backend.source.read("user", key, at))
        return dict(self.added(key, features, at)[NAME])

    def step(self) -> list[Event]:
        """Read some users on and return their changes of stage; the last step of a pass may fit.

        Raises:
            StreamingError: if the state cannot be read; the next pass begins anew.
            OSError: if a fit cannot be stored.
        """
        now, at = self._monotonic(), self._event_time()
        if not self._is_known or at <= 0:
            return []
        if self._pass is None:
            if now < self._next_pass:
                return []
            self._next_pass = now + self._settings.every_minutes * _MINUTE_S
            sample = VisitSample(at // DAY_MS, self._settings.horizon_days, self._rng)
            self._pass = self._users(), sample
        users, sample = self._pass
        self._pass = None  # after an error no fit takes a part of the users for all
        changes = []
        while piece := list(islice(users, _USERS)):
            found = (self._change(key, blob, at, sample) for key, blob in piece)
            changes += [change for change in found if change is not None]
            if self._monotonic() - now >= _STEP_S:
                self._pass = users, sample
                return changes
        self._end_pass(now, sample)
        return changes

    def _end_pass(self, now: float, sample: VisitSample) -> None:
        """Fit a model if it is due."""
        # An import may be under way: without a model, or with twice the users, fit again.
        if now >= self._next_fit or sample.seen >= 2 * self._fitted_users:
            from tactful.lifecycle.fit import fit  # scipy, which answers do not need

            fitted = fit(sample)
            self._file.write(fitted)
            self._fitted_users = sample.seen
            pause = 0.0 if fitted.model is None else self._settings.fit_hours * _HOUR_S
            self._next_fit = now + pause
        elif (former := self._file.read()) is not None and former.priced != sample.priced:
            self._file.write(msgspec.structs.replace(former, priced=sample.priced))

    @property
    def _is_known(self) -> bool:
        """Whether this process has the days of all visits, computed from the whole log."""
        engine = self._platform.engine
        if self._platform.backend.shared is not None:
            return False
        return DAYS in self._sources and not {DAYS, STAGE} & {*engine.missing}

    def _event_time(self) -> int:
        """Return the time of the newest event, at most the clock, epoch milliseconds.

        The clock would move the watermark of a log with old events.
        """
        newest = self._platform.engine.watermark + self._platform.settings.engine.watermark_delay_ms
        return min(self._platform.resources.installation.clock(), newest)

    def _personalises(self, key: str) -> bool:
        return Purpose.PERSONALISATION in self._platform.permissions.of_key(key)

    def _users(self) -> Iterator[tuple[str, bytes]]:
        """Iterate over the committed users; each piece is read anew, so no snapshot stays open."""
        prefix = start = entity_prefix("user")
        while piece := list(islice(self._platform.backend.state.scan(prefix, start), _USERS)):
            start = piece[-1][0] + b"\0"
            for key, blob in piece:
                yield key[len(prefix) :].decode(), blob

    def _change(self, key: str, blob: bytes, at: int, sample: VisitSample) -> Event | None:
        """Return the change of stage of a user who agrees, and add the visits to a sample."""
        if key.endswith(APART) or not self._personalises(key):
            return None
        features: dict[str, Any] = dict(self._reader.read(blob, at))
        days = days_of(features.get(DAYS) or (), at // DAY_MS)
        sample.add(days, spent=features.get(SPENT) or 0.0)
        return change_of(key, features, self.of(key, features, at), at)
