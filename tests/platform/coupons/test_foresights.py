"""From a foresight on a device to a coupon, for the users that neither side holds out."""

import json
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.platform.coupons.test_coupons import Bench

from tactful.coupons.decisions import group_of
from tactful.coupons.definitions import WITHHELD, CouponDefinition, load_coupons
from tactful.event_log.impressions import OFFER
from tactful.metadata.store import MetadataStore
from tactful_federated import (
    DeviceIntent,
    EventStore,
    ModelSlot,
    Trigger,
    TriggerLimits,
    Vocabulary,
)
from tactful_federated.device.model_package import pack_model
from tactful_federated.model.vectors import parameter_count
from tactful_streaming import Engine, MemoryState, load_definitions
from tactful_streaming.contract.decode_requests import decode_events
from tactful_streaming.contract.log_entries import Event, Tick, encode_entry

EXAMPLES = Path(__file__).parents[3] / "examples"
NOW = 1_767_268_800  # 2026-01-01T12:00Z
TRIGGER = Trigger(
    "tea",
    ("tea",),
    threshold=0.1,
    rearm=0.1,
    action="offer",
    group="drinks",
    holdout=0.1,
    holdout_name="coupon:foreseen",
)


class Shopper:
    """A device of a user that foresees tea, with consent to tell its group."""

    def __init__(self, directory: Path, user: str) -> None:
        directory.mkdir()
        self.user, self.acts, self.told = user, list[object](), list[Event]()
        self.events = EventStore(directory / "events.db", bytes(32), now=lambda: NOW)
        self.events.give_consent()
        self.events.allow_telling("group")
        vocabulary, key = Vocabulary(("soap", "tea")), Ed25519PrivateKey.generate()
        weights = np.zeros(parameter_count(vocabulary.size), dtype=np.float32)
        slot = ModelSlot(directory / "models", key.public_key(), vocabulary)
        slot.install(pack_model(weights, vocabulary, 1, key))
        self.device = DeviceIntent(
            directory, self.events, slot, vocabulary, now=lambda: NOW, part=None
        )

    def fire(self) -> None:
        def tell(event: dict[str, object]) -> bool:
            accepted, rejected = decode_events(json.dumps(event).encode(), now=NOW * 1000)
            self.told += [event for _, event in accepted]
            return not rejected

        limits = TriggerLimits(quiet=None)
        self.device.fire(
            [TRIGGER], act=self.acts.append, tell=tell, user_id=self.user, limits=limits
        )


def test_a_foresight_starts_a_campaign_that_holds_out_the_same_users(
    tmp_path: Path, sqlite: MetadataStore
) -> None:
    (definition,) = load_coupons(
        EXAMPLES / "foresight_coupons.yaml",
        definitions=load_definitions(EXAMPLES / "foresight.yaml"),
    )
    held = users(definition, "holdout")
    free = users(definition, "explore")
    everybody = msgspec.structs.replace(definition, eligible={})  # the desk has no features
    desk = Bench(tmp_path / "log", sqlite, everybody)
    engine = Engine(load_definitions(EXAMPLES / "foresight.yaml"), MemoryState())
    decided = dict[str, str]()
    for number, user in enumerate([*held, *free]):
        shopper = Shopper(tmp_path / user, user)
        shopper.fire()
        assert len(shopper.acts) == (user in free)
        (event,) = shopper.told
        engine.apply([(number, encode_entry(event))])
    tick = Tick(timestamp=(NOW + 60) * 1000)
    engine.apply([(len(held + free), encode_entry(tick))])
    engine.commit()
    for event in desk.run(*engine.outbox()):
        decided[str(event.user_id)] = event.type
    assert decided == dict.fromkeys(held, WITHHELD) | dict.fromkeys(free, OFFER)


def users(definition: CouponDefinition, group: str) -> list[str]:
    names = [f"p{number}" for number in range(200)]
    return [name for name in names if group_of(definition, name) == group][:3]
