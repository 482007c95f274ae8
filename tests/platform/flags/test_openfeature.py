"""The OpenFeature provider in the SDK for Python."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent

from tactful.flags.local import LocalFlags
from tactful.flags.openfeature import TactfulProvider
from tactful.flags.payloads import PayloadSigner

FEATURES: dict[str, Any] = {
    "cart": {
        "defaultValue": False,
        "rules": [{"id": "swiss", "force": True, "condition": {"country": "CH"}}],
    },
    "price": {
        "defaultValue": 1.5,
        "rules": [
            {
                "key": "e",
                "variations": [1, 2],
                "weights": [0, 1],
                "meta": [{"key": "old"}, {"key": "new"}],
                "hashVersion": 2,
            }
        ],
    },
    "since": {
        "defaultValue": "old",
        "rules": [{"force": "new", "condition": {"at": {"$date": {"$gt": "2026-01-01"}}}}],
    },
    "half": {"defaultValue": 0.5},
    "whole": {"defaultValue": 3.0},
    "texts": {"defaultValue": {"title": "Tea"}},
    "killed": {"defaultValue": "plain", "off": True},
    "secret": {"remote": True},
}


class Fake:
    def __init__(self) -> None:
        self.signer = PayloadSigner(b"k" * 32)
        self.payload: dict[str, Any] = {"version": 1, "features": FEATURES}
        self.events: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/events":
            self.events += json.loads(request.content)
            return httpx.Response(
                200, json={"accepted": 1, "duplicates": 0, "rejected": [], "position": 1}
            )
        if request.url.path == "/v1/flags/payload":
            return httpx.Response(200, content=self.signer.seal(self.payload).body)
        return httpx.Response(404, json={"title": "none", "status": 404})


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def flags(fake: Fake) -> LocalFlags:
    key = fake.signer.public.public_key
    return LocalFlags("http://fake", signing_key=key, transport=httpx.MockTransport(fake))


@pytest.fixture
def client(flags: LocalFlags) -> Iterator[OpenFeatureClient]:
    api.set_provider_and_wait(TactfulProvider(flags))
    yield api.get_client()
    api.shutdown()
    api.clear_providers()


def test_values_carry_their_reason_arm_and_rule(client: OpenFeatureClient, fake: Fake) -> None:
    swiss = EvaluationContext("u-1", {"country": "CH"})
    cart = client.get_boolean_details("cart", False, swiss)
    assert (cart.value, cart.reason) == (True, "TARGETING_MATCH")
    assert cart.flag_metadata == {"version": 1, "rule": "swiss"}
    price = client.get_integer_details("price", 0, swiss)
    assert (price.value, price.variant, price.reason) == (2, "new", "SPLIT")
    assert price.flag_metadata["experiment"] == "e"
    assert client.get_float_value("price", 0.0, EvaluationContext()) == 1.5
    assert client.get_object_value("texts", {}) == {"title": "Tea"}
    killed = client.get_string_details("killed", "?")
    assert (killed.value, killed.reason) == ("plain", "DISABLED")
    late = EvaluationContext("u-1", {"at": dt.datetime(2026, 3, 1, tzinfo=dt.UTC)})
    assert client.get_string_value("since", "?", late) == "new"
    api.shutdown()
    assert [(event["user_id"], event["properties"]["arm"]) for event in fake.events] == [
        ("u-1", "new")
    ]


def test_a_number_has_the_type_that_the_caller_reads(client: OpenFeatureClient) -> None:
    user = EvaluationContext("u-1")
    read = client.get_float_details("price", 0.0, user)
    assert (type(read.value), read.value, read.variant) == (float, 2.0, "new")
    whole = client.get_integer_value("whole", 0)
    assert (type(whole), whole) == (int, 3)
    assert client.get_float_value("whole", 0.0) == 3.0
    assert client.get_integer_details("half", 7).error_code == "TYPE_MISMATCH"
    assert client.get_float_details("cart", 7.0).error_code == "TYPE_MISMATCH"


def test_the_context_names_the_unit(client: OpenFeatureClient, fake: Fake) -> None:
    for context in (
        EvaluationContext("用户-🍵", {"user_id": "other", "device_id": "d-1"}),
        EvaluationContext(None, {"user_id": "u-2"}),
        EvaluationContext("", {"device_id": "d-1", "user_id": 5}),
    ):
        assert client.get_integer_value("price", 0, context) == 2
    api.shutdown()
    units = [(event.get("user_id"), event.get("device_id")) for event in fake.events]
    assert units == [("用户-🍵", "d-1"), ("u-2", None), (None, "d-1")]


def test_a_flag_that_cannot_be_given_has_the_callers_value(client: OpenFeatureClient) -> None:
    for key, code in [
        ("none", "FLAG_NOT_FOUND"),
        ("secret", "GENERAL"),
        ("texts", "TYPE_MISMATCH"),
    ]:
        found = client.get_string_details(key, "mine")
        assert (found.value, found.error_code, found.reason) == ("mine", code, "ERROR")
    assert client.get_integer_details("cart", 5).error_code == "TYPE_MISMATCH"


def test_a_unit_without_consent_is_in_no_experiment(client: OpenFeatureClient) -> None:
    context = EvaluationContext("u-1", {"consented": False})
    assert client.get_float_value("price", 0.0, context) == 1.5
    device = EvaluationContext(None, {"device_id": "d-1"})
    assert client.get_integer_value("price", 0, device) == 2


def test_a_new_version_is_an_event(
    client: OpenFeatureClient, flags: LocalFlags, fake: Fake
) -> None:
    heard: list[EventDetails] = []
    client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, heard.append)
    fake.payload = {"version": 2, "features": {}}
    flags.refresh()
    assert len(heard) == 1
    assert client.get_boolean_details("cart", True).error_code == "FLAG_NOT_FOUND"
