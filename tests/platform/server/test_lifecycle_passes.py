"""Passes over users: by time, whole or not at all, and by features of the packaged shape only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tactful.config.recommendation import LifecycleSettings
from tactful.config.settings import PACKAGED_FEATURES
from tactful.lifecycle.profile import NOT_COMPUTED
from tactful.lifecycle.sources import SOURCES
from tactful.lifecycle.stored import FittedFile
from tactful.server.lifecycle import LifeCycles
from tactful.subjects.permissions import Permissions
from tactful_privacy.people.consent import EVERYTHING, Consents
from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.errors import StreamingError
from tactful_streaming.state.store import MemoryState

DAY = 86_400_000
NOW = 20_000 * DAY
USERS = 250
PACKAGED = Definitions(
    tuple(it for it in load_definitions(PACKAGED_FEATURES).features if it.name in SOURCES)
)


class State(MemoryState):
    """State of which only the first users can be read while it is broken."""

    broken = False

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        if self.broken and start > prefix:
            raise StreamingError("the disk is gone")
        return super().scan(prefix, start)


class Passes:
    """Life cycles of 250 users with five visits each, and a clock that is set."""

    def __init__(
        self,
        data: Path,
        definitions: Definitions = PACKAGED,
        monotonic: Callable[[], float] | None = None,
        **event: Any,
    ) -> None:
        self.now, self.state = 0.0, State()
        engine = Engine(definitions, self.state)
        visits = sorted(
            (NOW - (number % 40 + 10 * visit) * DAY, f"u{number:03}")
            for number in range(USERS)
            for visit in range(5)
        )
        records = [
            (offset, self._visit(offset, at, user, **event))
            for offset, (at, user) in enumerate(visits)
        ]
        engine.apply(records)
        engine.commit()
        installation = SimpleNamespace(clock=lambda: NOW)
        settings = SimpleNamespace(
            lifecycle=LifecycleSettings(),
            storage=SimpleNamespace(data=data),
            engine=SimpleNamespace(watermark_delay_ms=0),
        )
        platform: Any = SimpleNamespace(
            engine=engine,
            backend=SimpleNamespace(shared=None, state=self.state),
            permissions=Permissions(Consents(EVERYTHING)),
            resources=SimpleNamespace(installation=installation),
            settings=settings,
        )
        self.file = FittedFile(data)
        self.engine = engine
        self.cycles = LifeCycles(platform, monotonic=monotonic or (lambda: self.now))

    @staticmethod
    def _visit(offset: int, at: int, user: str, **event: Any) -> bytes:
        fields: dict[str, Any] = {"type": "view", **event}
        return encode_entry(Event(event_id=f"e{offset}", timestamp=at, user_id=user, **fields))


def test_a_pass_reads_all_users_in_the_time_of_a_step(tmp_path: Path) -> None:
    passes = Passes(tmp_path)
    passes.cycles.step()
    fitted = passes.file.read()
    assert fitted is not None and fitted.people == USERS and fitted.model is not None
    assert not fitted.priced
    passes.now = 1_000.0
    assert len(passes.cycles.step()) == USERS, "one change each, after the first fit"


def test_a_step_ends_when_its_time_is_over(tmp_path: Path) -> None:
    times = count(0.0, 0.5)
    passes = Passes(tmp_path, monotonic=lambda: next(times))
    passes.cycles.step()
    passes.cycles.step()
    assert passes.file.read() is None, "a third step finds that no user is left"
    passes.cycles.step()
    fitted = passes.file.read()
    assert fitted is not None and fitted.people == USERS


def test_a_pass_that_fails_midway_is_begun_anew(tmp_path: Path) -> None:
    passes = Passes(tmp_path)
    passes.state.broken = True
    with pytest.raises(StreamingError):
        passes.cycles.step()
    passes.state.broken = False
    assert passes.cycles.step() == [], "the next pass begins after `lifecycle.every_minutes`"
    assert passes.file.read() is None
    passes.now = 900.0
    passes.cycles.step()
    fitted = passes.file.read()
    assert fitted is not None and fitted.people == USERS


def test_the_first_purchase_changes_the_unit_of_all(tmp_path: Path) -> None:
    passes = Passes(tmp_path, type="purchase", properties={"price": 2.5})
    passes.cycles.step()
    fitted = passes.file.read()
    assert fitted is not None and fitted.priced and fitted.model is not None
    passes.file.write(msgspec.structs.replace(fitted, priced=False, fitted_on=1))
    passes.now = 1_000.0  # a pass is due, and no fit
    passes.cycles.step()
    assert passes.file.read() == msgspec.structs.replace(fitted, fitted_on=1)


@pytest.mark.parametrize(
    "text",
    [
        "- {name: visit_days, entity: user, event: view, aggregate: count, window: {size: 364d}}",
        "- {name: visit_days, entity: user, event: view, aggregate: last_time, group_by: item_id}",
    ],
)
def test_own_days_of_another_shape_are_not_read(tmp_path: Path, text: str) -> None:
    passes = Passes(tmp_path, load_definitions(text), item_id="shoes")
    assert passes.cycles.step() == []
    features = dict(passes.engine.read("user", "u001", NOW))
    assert features["visit_days"]
    assert passes.cycles.of("u001", features, NOW).reason == NOT_COMPUTED
