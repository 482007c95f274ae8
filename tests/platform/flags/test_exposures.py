import asyncio

import msgspec
import pytest

from tactful.flags.assign import ExposureLog, Unit
from tactful.flags.exposures import (
    Applied,
    Exposure,
    as_exposure,
    is_verified,
    read_exposures,
    verified_exposure,
)
from tactful_streaming.contract.log_entries import Event, Property, Restricted, encode_entry

KEY = b"k" * 32
APPLIED = Applied("checkout", "short", "checkout-form", 7)


def claimed(**about: object) -> Event:
    properties: dict[str, Property] = {"experiment": "checkout", "arm": "short", "version": 7}
    event = Event(
        event_id="e1",
        type="exposure",
        timestamp=5,
        device_id="d1",
        properties=properties,
        sender="browser",
    )
    return msgspec.structs.replace(event, **about)


def read(*entries: Event | Restricted) -> list[Exposure]:
    return [*read_exposures([[(n, encode_entry(entry)) for n, entry in enumerate(entries)]])]


def test_exposures_of_the_log_are_read_in_order() -> None:
    own = verified_exposure(APPLIED, user_id="ada", device_id="d9", at=3, key=KEY)
    other = Event(event_id="e2", type="view", timestamp=4, user_id="exposure")
    assert read(own, other, claimed()) == [
        Exposure("checkout", "short", "ada", 3, True, 7),
        Exposure("checkout", "short", "device:d1", 5, False, 7),
    ]


def test_one_unit_and_arm_has_one_id_that_only_the_key_gives() -> None:
    ids = {
        verified_exposure(it, user_id=user, device_id=device, at=at, key=key).event_id
        for it, user, device, at, key in (
            (APPLIED, "ada", None, 1, KEY),
            (APPLIED, "ada", "d1", 2, KEY),
            (msgspec.structs.replace(APPLIED, arm="long"), "ada", None, 1, KEY),
            (APPLIED, None, "ada", 1, KEY),
            (APPLIED, "ada", None, 1, b"o" * 32),
        )
    }
    assert len(ids) == 4


@pytest.mark.parametrize("sender", ["browser", "server", "source"])
def test_a_sent_event_is_never_verified(sender: str) -> None:
    own = verified_exposure(APPLIED, user_id="ada", device_id=None, at=3, key=KEY)
    assert is_verified(own)
    assert not is_verified(msgspec.structs.replace(own, sender=sender))
    assert not is_verified(msgspec.structs.replace(own, event_id="e1"))


@pytest.mark.parametrize(
    "properties",
    [{}, {"experiment": "a"}, {"experiment": 1, "arm": "b"}, {"experiment": "a", "arm": ""}],
)
def test_an_exposure_without_an_experiment_or_arm_is_none(properties: dict[str, object]) -> None:
    assert as_exposure(claimed(properties=properties)) is None


def test_events_that_may_not_be_measured_are_left_out() -> None:
    kept = Restricted(timestamp=5, purposes=("measurement",), event=claimed())
    hidden = Restricted(timestamp=5, purposes=("service",), event=claimed())
    assert len(read(kept, hidden)) == 1
    batch = [(0, encode_entry(claimed()))]
    assert not [*read_exposures([batch], allows=lambda event: event.device_id != "d1")]
    assert not [*read_exposures([[(0, b"exposure, damaged")]])]


def test_an_exposure_that_could_not_be_written_is_logged_again() -> None:
    log, unit = ExposureLog(KEY, seen=lambda event_id, at: False), Unit(user_id="ada")

    async def evaluate_thrice() -> list[bool]:
        logged = []
        for error in (OSError("the disk is full"), None, None):
            event = log.event(APPLIED, unit, 3)
            logged.append(event is not None)
            if event is not None:
                write: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                write.set_exception(error) if error is not None else write.set_result(None)
                log.settle(event, write)
        return logged

    assert asyncio.run(evaluate_thrice()) == [True, True, False]
