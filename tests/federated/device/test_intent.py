"""What a device believes of its person, how little of it is told, and when it fires."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful_federated.device.event_store import EventStore
from tactful_federated.device.intent import DeviceIntent
from tactful_federated.device.model_package import ModelSlot, pack_model
from tactful_federated.errors import PackageError, SettingsError
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Vector, layer_shapes, layers
from tactful_privacy.mechanisms.local import RandomizedResponse

VOCABULARY = Vocabulary.from_catalogue([f"c{n}" for n in range(6)])
KEY = Ed25519PrivateKey.generate()
DAY = 86_400.0
SHAPES = layer_shapes(VOCABULARY.size, embedding=32, hidden=32)


def favouring(category: str, by: float = 8.0) -> Vector:
    """A model that expects one category whatever came before."""
    weights = np.zeros(IntentModel(VOCABULARY.size).size, dtype=np.float32)
    layers(weights, SHAPES)[-1][VOCABULARY.token(category) - 3] = by
    return weights


class Phone:
    """A device with a clock to be set."""

    def __init__(self, directory: Path, *, consent: bool = True, models: str = "models") -> None:
        self.time = 1_000 * DAY
        self.events = EventStore(directory / "events.db", bytes(32), now=lambda: self.time)
        self.slot = ModelSlot(directory / models, KEY.public_key(), VOCABULARY)
        self.directory = directory
        if consent:
            self.events.give_consent()

    def intent(self) -> DeviceIntent:
        return DeviceIntent(
            self.directory, self.events, self.slot, VOCABULARY, now=lambda: self.time, part=None
        )

    def take(self, weights: Vector, version: int = 1) -> DeviceIntent:
        device = self.intent()
        device.install(pack_model(weights, VOCABULARY, version, KEY))
        return device


def test_a_request_is_told_tenths_of_a_few_categories(tmp_path: Path) -> None:
    phone = Phone(tmp_path)
    weights = favouring("c3", 4.0)
    layers(weights, SHAPES)[-1][1] = 3.0
    device = phone.take(weights)
    told = device.coarse(4)
    assert list(told)[:2] == ["c3", "c1"] and told["c3"] == 1.0
    assert all(round(10 * weight) / 10 == weight for weight in told.values())
    assert told["c1"] == 0.3  # exp(-1), cut to tenths
    assert set(told) == {"c3", "c1"}  # what rounds to nothing is not told
    assert device.likely(1)["c3"] == pytest.approx(
        np.exp(4) / (np.exp(4) + np.exp(3) + 4), rel=1e-5
    )


@pytest.mark.slow
def test_the_likeliest_has_the_weight_one(tmp_path: Path) -> None:
    """Also where ten times its probability, divided by it, is a little below ten."""
    phone = Phone(tmp_path)
    for version, by in enumerate(np.linspace(0.5, 4, 40), 1):
        assert phone.take(favouring("c3", by), version).coarse(1) == {"c3": 1.0}


def test_nothing_is_said_without_consent_or_model(tmp_path: Path) -> None:
    phone = Phone(tmp_path)
    empty = phone.intent()
    assert empty.model is None and empty.coarse() == empty.randomised("1") == {}
    device = phone.take(favouring("c2"))
    assert device.coarse() and device.randomised("1") and device.about_to(["c2"]) > 0.9
    phone.events.withdraw_consent()
    assert device.coarse() == device.likely() == device.randomised("1") == {}
    assert device.about_to(["c2"]) == 0 and device.model is None


@pytest.mark.slow
def test_a_day_has_one_report_whatever_is_asked(tmp_path: Path) -> None:
    """Else many requests would give the truth away by what they say most often."""
    phone = Phone(tmp_path)
    reports = set[tuple[int, str]]()
    for version in range(1, 25):
        phone.take(favouring(f"c{version % 6}"), version)
        day = [phone.intent().randomised(epsilon) for epsilon in ("0.1", "0.1", "9")]
        assert day[0] == day[1] == day[2]
        phone.time -= DAY / 2  # a clock that goes back draws nothing anew
        assert phone.intent().randomised("9") == day[0]
        phone.time += 1.5 * DAY
        ((category, weight),) = day[0].items()
        assert weight == float(RandomizedResponse(6, "0.1").truth)
        reports.add((version % 6, category))
    assert len(reports) == 6  # one report of each answer, however often it comes back
    assert len({category for _, category in reports}) > 1


def test_an_answer_that_lasts_has_one_report(tmp_path: Path) -> None:
    """A report a day would let a server average a year of them, also over a withdrawn consent."""
    phone = Phone(tmp_path)
    phone.take(favouring("c2"))
    days = set[str]()
    for day in range(60):
        if day % 20 == 19:
            phone.events.withdraw_consent()
            phone.events.give_consent()
        days.update(phone.intent().randomised("0.5"))
        phone.time += DAY
    assert len(days) == 1


def test_a_damaged_secret_draws_nothing(tmp_path: Path) -> None:
    phone = Phone(tmp_path)
    device = phone.take(favouring("c2"))
    (tmp_path / "report-secret").write_bytes(b"short")
    with pytest.raises(SettingsError, match=r"report-secret: 5 bytes instead of 32"):
        device.randomised("1")


@pytest.mark.slow
def test_reports_are_as_often_true_as_they_say(
    tmp_path: Path, seeded_noise: Callable[[int], AbstractContextManager[None]]
) -> None:
    """Over 400 devices: the false alarm rate is below 1e-6."""
    phone = Phone(tmp_path)
    phone.take(favouring("c4"))
    counted: Counter[str] = Counter()
    device = phone.intent()
    with seeded_noise(1):
        for n in range(400):
            secret = np.random.default_rng([1, n]).bytes(32)
            (tmp_path / "report-secret").write_bytes(secret)
            counted.update(list(device.randomised("2")))
            phone.time += DAY
    truth = float(RandomizedResponse(6, "2").truth)
    assert counted["c4"] / 400 == pytest.approx(truth, abs=5 * 0.5 / 20)
    assert min(counted[f"c{n}"] for n in range(6)) > 0


def test_a_model_that_does_worse_on_this_person_is_refused(tmp_path: Path) -> None:
    phone = Phone(tmp_path)
    for _ in range(10):
        phone.events.add(["c1"])
    device = phone.take(favouring("c1"))
    with pytest.raises(PackageError, match="worse"):
        phone.take(favouring("c2"), 2)
    assert phone.slot.version == 1 and next(iter(device.coarse())) == "c1"
    phone.take(favouring("c1", 9.0), 3)
    assert phone.slot.version == 3


def test_a_model_that_fails_is_rolled_back(tmp_path: Path) -> None:
    phone = Phone(tmp_path)
    phone.take(favouring("c1"))
    broken = favouring("c2")
    table, into = layers(broken, SHAPES)[:2]
    table[VOCABULARY.token("c5")] = 3e38  # harmless until c5 is seen
    into[:] = np.where(np.arange(32) % 2, 1e5, -1e5)
    device = phone.take(broken, 2)
    assert next(iter(device.coarse())) == "c2"
    phone.events.add(["c5"])
    with np.errstate(all="ignore"):
        assert next(iter(device.coarse())) == "c1"
    assert phone.slot.version == 1 and phone.slot.withdrawn == 2


def test_the_model_is_fitted_anew_when_visits_come(tmp_path: Path) -> None:
    phone = Phone(tmp_path)
    phone.take(favouring("c1", 0.1))
    device = DeviceIntent(tmp_path, phone.events, phone.slot, VOCABULARY, now=lambda: phone.time)
    first = device.model
    assert first is device.model
    for _ in range(80):
        phone.events.add(["c4"])
    assert device.model is not first
    assert next(iter(device.likely())) == "c4"
