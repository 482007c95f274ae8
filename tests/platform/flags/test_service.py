"""Versions of the flags: one transaction each, refusals, kills, history."""

from __future__ import annotations

import base64
import json
from contextlib import closing
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tests.platform.databases import Location
from tests.platform.flags.conftest import Clock
from tests.platform.flags.flag_files import FLAGS

from tactful.errors import ConfigError
from tactful.flags.payloads import Envelope
from tactful.flags.service import FlagService
from tactful.flags.store import FlagStore
from tactful.metadata.audit import AuditTrail
from tactful.metadata.store import MetadataStore, open_metadata
from tactful.schemas.experiments.flags import FlagsApplied, FlagsFile
from tactful_bandits.flags import evaluate

CHECKOUT = "      - experiment: {key: checkout-2027, arms: [long, short]}"


@pytest.fixture
def service(store: FlagStore, clock: Clock) -> FlagService:
    return FlagService(store, clock=clock)


def apply(service: FlagService, text: str = FLAGS, **about: Any) -> FlagsApplied:
    return service.apply(FlagsFile(definitions=text, **about), by="ann@shop")


def opened(service: FlagService, envelope: Envelope) -> dict[str, Any]:
    """Check the signature of an envelope and return its payload."""
    signed = json.loads(envelope.body)
    public = base64.b64decode(service.signer.public.public_key)
    key = Ed25519PublicKey.from_public_bytes(public)
    text = signed["payload"].encode()
    key.verify(base64.b64decode(signed["signature"]), text)
    with pytest.raises(InvalidSignature):
        key.verify(base64.b64decode(signed["signature"]), text + b" ")
    assert signed["key_id"] == service.signer.public.key_id
    payload: dict[str, Any] = json.loads(text)
    return payload


def test_nothing_is_applied_yet(service: FlagService) -> None:
    assert service.served.number == 0
    assert opened(service, service.served.public)["features"] == {}


def test_a_version_is_applied_once(
    service: FlagService, metadata: MetadataStore, location: Location, clock: Clock
) -> None:
    first = apply(service, reason="a cart on one page")
    assert (first.version, first.changed) == (1, True)
    assert {it.change for it in first.differences} == {"added"}
    again = apply(service, f"# a comment\n{FLAGS}")
    assert (again.version, again.changed, again.differences) == (1, False, [])
    checked = apply(service, FLAGS.replace("share: 0.5", "share: 0.7"), check=True)
    assert (checked.version, checked.changed) == (1, True)
    second = apply(service, FLAGS.replace("share: 0.5", "share: 0.7"))
    (difference,) = second.differences
    assert (difference.flag, difference.lines) == ("结账", ["rules[0].share: 0.5 → 0.7"])
    entries, _ = AuditTrail(metadata, clock=clock).entries(action="flag")
    assert [(it.actor, it.action, it.target) for it in entries] == [
        ("ann@shop", "flag.apply", "flags.yaml")
    ] * 2
    assert entries[0].detail == "version 2: changed 结账"
    with closing(open_metadata(location)) as other:  # another server, or the next start
        there = FlagService(FlagStore(other, clock=clock), clock=clock)
        assert there.served.public == service.served.public, "salt and key stay"
        assert there.signer.public == service.signer.public
        assert apply(there, FLAGS).version == 3
    assert service.refresh()
    assert service.served.number == 3
    assert not service.refresh()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("flags: [", r"^shop\.yaml:"),
        ("- a\n- b", r"shop\.yaml"),
        (FLAGS.replace("serve: spring", "serve: autumn"), r"shop\.yaml:\d+.*banner"),
        ("flags:\n  payload: {default: off}\n", r"shop\.yaml:2.*paths of the API"),
        (FLAGS.replace("[country]", "[lifecycle]"), r"shop\.yaml:\d.*computed by the server"),
        ("flags:\n  " + "x" * 129 + ": {default: off}\n", r"shop\.yaml:2.*at most 128"),
        ("flags: {a: {default: off}}\n\0", r"shop\.yaml"),
    ],
)
def test_a_wrong_file_changes_nothing(service: FlagService, wrong: str, message: str) -> None:
    apply(service)
    with pytest.raises(ConfigError, match=message):
        apply(service, wrong, name="shop.yaml")
    assert service.store.number == 1


@pytest.mark.parametrize(
    "changed",
    [
        CHECKOUT.replace("[long, short]", "[short, long]"),
        CHECKOUT.replace(
            "[long, short]", "[{variant: long, weight: 0.4}, {variant: short, weight: 0.6}]"
        ),
        CHECKOUT.replace("}", ", seed: another}"),
        CHECKOUT.replace("}", ", unit: company}"),
    ],
)
def test_an_experiment_does_not_change_under_its_units(service: FlagService, changed: str) -> None:
    apply(service)
    text = FLAGS.replace(CHECKOUT, changed)
    assert text != FLAGS
    line = text[: text.index(changed)].count("\n") + 1
    with pytest.raises(ConfigError, match=rf"flags\.yaml:{line}: .*'checkout-2027'.*another key"):
        apply(service, text)
    assert service.served.number == 1
    removed = FLAGS[: FLAGS.index("  checkout:")]
    assert apply(service, removed).version == 2
    with pytest.raises(ConfigError, match="another key"):
        apply(service, text)
    assert apply(service, text.replace("checkout-2027", "checkout-2028")).version == 3
    assert apply(service, FLAGS.replace('}\n  "', ', coverage: 0.4}\n  "')).version == 4


def test_the_values_of_arms_do_not_change_either(service: FlagService) -> None:
    apply(service)
    with pytest.raises(ConfigError, match="another key"):
        apply(service, FLAGS.replace("short: one page", "short: two pages"))


def test_a_killed_flag_has_its_default_until_it_is_revived(
    service: FlagService, metadata: MetadataStore, clock: Clock
) -> None:
    apply(service)
    killed = service.kill("checkout", "loses orders", by="bob@shop")
    assert killed is not None and killed.version == 2
    assert service.kill("checkout", "again", by="bob@shop") is None
    result = evaluate(service.served.features, "checkout", {"id": "ada"})
    assert (result.value, result.source) == ("three pages", "off")
    for envelope in (service.served.public, service.served.full):
        feature = opened(service, envelope)["features"]["checkout"]
        assert feature == {"defaultValue": "three pages", "rules": [], "off": True}
    apply(service, FLAGS.replace("share: 0.5", "share: 0.7"))
    assert {*service.served.killed} == {"checkout"}, "a file does not revive a flag"
    with pytest.raises(KeyError):
        service.revive("nothing", "x", by="bob@shop")
    service.revive("checkout", "repaired", by="bob@shop")
    assert evaluate(service.served.features, "checkout", {"id": "ada"}).in_experiment
    entries, _ = AuditTrail(metadata, clock=clock).entries(action="flag", actor="bob@shop")
    assert [(it.action, it.target, it.detail) for it in entries] == [
        ("flag.revive", "checkout", "repaired"),
        ("flag.kill", "checkout", "loses orders"),
    ]


def test_a_remote_flag_that_is_killed_has_its_default_in_browsers(service: FlagService) -> None:
    apply(service, "flags: {secret: {default: off, remote: true, rules: [{serve: on}]}}")
    public = opened(service, service.served.public)["features"]["secret"]
    assert public == {"remote": True}
    assert service.served.remote == {"secret"}
    service.kill("secret", "x", by="bob")
    public = opened(service, service.served.public)["features"]["secret"]
    assert public == {"defaultValue": False, "rules": [], "off": True}
    assert not service.served.remote


def test_browsers_get_no_clear_values(service: FlagService) -> None:
    apply(service)
    public = service.served.public.body.decode()
    for secret in ("ada@shop.example", "checkout team", "Cart on one page"):
        assert secret not in public
    assert "ada@shop.example" in service.served.full.body.decode()
    features = opened(service, service.served.public)
    assert evaluate(features, "banner", {"email": "ada@shop.example"}).value == "Spring sale"
    assert evaluate(features, "banner", {"email": "bob@shop.example"}).value == ""


def test_names_fit_the_columns_of_the_database(service: FlagService) -> None:
    for long in ("checkout-2027" + "x" * 116, "checkout-2027" + "结" * 116):
        with pytest.raises(ConfigError, match=r"flags\.yaml:\d+.*at most 128"):
            apply(service, FLAGS.replace("checkout-2027", long))
