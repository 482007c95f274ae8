"""`tactful federated intent` prints what a request for recommendations takes along, and no more."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful.cli.main import main
from tactful.schemas.recommendations import RecommendRequest
from tactful_federated.core.invitation import Invitation, save_invitation
from tactful_federated.core.plan import TrainingPlan
from tactful_federated.device.model_package import pack_model
from tactful_federated.device.triggers import read_triggers
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import parameter_count
from tactful_streaming.contract.decode_requests import decode_events

CATEGORIES = ["bread", "cheese", "milk"]
VOCABULARY = Vocabulary.from_catalogue(CATEGORIES)
KEY = Ed25519PrivateKey.generate()
PLAN = TrainingPlan(
    **{name: 1 for name in TrainingPlan.__dataclass_fields__ if name != "unit"}  # type: ignore[arg-type]
)


@pytest.fixture
def device(tmp_path: Path) -> list[str]:
    """Arguments that name a device which keeps forty visits for milk."""
    invitation, history = tmp_path / "invitation.json", tmp_path / "history.json"
    signer, authority = KEY.public_key().public_bytes_raw(), bytes(32)
    made = Invitation(
        run="test",
        tier="secret",
        plan=PLAN,
        categories=CATEGORIES,
        authority=authority,
        signer=signer,
    )
    save_invitation(invitation, made)
    history.write_text(json.dumps([["milk"]] * 40))
    named = [str(tmp_path / "device"), "--invitation", str(invitation)]
    asked = ["federated", "device", *named, "--consent", "--history", str(history)]
    answer = CliRunner().invoke(main, asked)
    assert answer.exit_code == 0, answer.output
    weights = np.zeros(parameter_count(VOCABULARY.size), dtype=np.float32)
    for version in (1, 2):
        (tmp_path / f"model{version}").write_bytes(pack_model(weights, VOCABULARY, version, KEY))
    narrow = np.zeros(parameter_count(VOCABULARY.size, embedding=8, hidden=8), dtype=np.float32)
    package = pack_model(narrow, VOCABULARY, 3, KEY, embedding=8, hidden=8)
    (tmp_path / "narrow").write_bytes(package)
    return named


def ask(device: list[str], *more: str) -> dict[str, Any]:
    found = CliRunner().invoke(main, ["federated", "intent", *device, *more])
    assert found.exit_code == 0, found.output
    answer: dict[str, Any] = json.loads(found.stdout)
    return answer


def test_what_is_printed_goes_with_a_request(device: list[str], tmp_path: Path) -> None:
    assert ask(device) == {"intent": {}}  # no model yet
    model = ("--model", str(tmp_path / "model1"))
    told = ask(device, *model, "--about", "milk", "--steps", "2")
    assert next(iter(told["intent"])) == "milk" and told["about_to"] > 0.8
    request = msgspec.convert({"user_id": "ada", "intent": told["intent"]}, RecommendRequest)
    assert request.intent == told["intent"]
    as_shared = ask(device, "--own", "nothing")["intent"]
    assert as_shared == dict.fromkeys(CATEGORIES, 1.0)  # the shared model knows nothing of anybody
    assert len(ask(device, "--randomise", "0.5")["intent"]) == 1


def test_wrong_wishes_are_named(device: list[str], tmp_path: Path) -> None:
    ask(device, "--model", str(tmp_path / "model1"))
    for option, value, code, message in (
        ("--about", "caviar", 2, "caviar"),
        ("--randomise", "nothing", 2, "randomise"),
        ("--model", tmp_path / "model1", 1, "not newer"),
        ("--model", tmp_path / "device" / "request.json", 1, "not signed"),
        ("--model", tmp_path / "narrow", 1, "widths"),
    ):
        wish = ["federated", "intent", *device, option, str(value)]
        found = CliRunner().invoke(main, wish)
        assert found.exit_code == code and message in found.output, found.output


def test_triggers_fire_once_and_tell_what_the_user_allows(
    device: list[str], tmp_path: Path
) -> None:
    ask(device, "--model", str(tmp_path / "model1"))
    file = tmp_path / "triggers.json"
    tea = {"name": "tea", "categories": ["milk"], "steps": 2, "group": "drinks"}
    file.write_text(json.dumps({"triggers": [tea], "limits": {"quiet": None}}))
    fires = ("--triggers", str(file), "--user", "ada")
    told = ask(device, "--tell", "group", *fires)
    ((fired,), (event,)) = told["fired"], told["events"]
    assert (fired["trigger"], fired["category"], fired["action"]) == ("tea", "milk", "prefetch")
    assert event["type"] == "x.about_to_prefetch" and event["user_id"] == "ada"
    assert event["properties"] == {"probability": 0.9, "group": "drinks"}
    accepted, rejected = decode_events(json.dumps(event).encode(), now=event["timestamp"])
    assert not rejected and accepted[0][1].type == event["type"]
    told = ask(device, *fires)
    assert told["fired"] == told["events"] == []
    told = ask(device, "--about", "milk", "--days", "7")
    assert told["about_to"] == 0  # times are not known
    for wrong, message in (
        ("{", "triggers.json"),
        ('{"triggers": [{"name": "x", "categories": ["caviar"]}]}', "'caviar'"),
        ('{"triggers": [{"name": "x", "categories": ["milk"], "steps": 0}]}', "steps is 0"),
        ('{"triggers": [{"name": "x", "categories": ["milk"], "often": 1}]}', "often"),
        (json.dumps({"triggers": [tea, tea]}), "'tea'"),
    ):
        file.write_text(wrong)
        found = CliRunner().invoke(main, ["federated", "intent", *device, *fires])
        assert found.exit_code == 2 and message in found.output, found.output


@pytest.mark.slow
def test_triggers_are_calibrated_to_public_histories(device: list[str], tmp_path: Path) -> None:
    """A model that knows nothing: every probability becomes the share that came."""
    ask(device, "--model", str(tmp_path / "model1"))
    triggers, public, out = (tmp_path / name for name in ("t.json", "public.json", "out.json"))
    milk = {"name": "milk", "categories": ["milk"], "steps": 1}
    soon = {"name": "soon", "categories": ["milk"], "days": 2, "threshold": 0.9}
    triggers.write_text(json.dumps({"triggers": [milk, soon], "limits": {"quiet": None}}))
    person = [
        {"at": 86_400 * day, "categories": ["bread" if day % 4 else "milk"]} for day in range(40)
    ]
    public.write_text(json.dumps([person] * 3))
    asked = ["federated", "calibrate", str(triggers), "--model", str(tmp_path / "model1")]
    asked += [*device[1:], "--histories", str(public), "--output", str(out)]
    answer = CliRunner().invoke(main, [*asked, "--json"])
    assert answer.exit_code == 0, answer.output
    rows = json.loads(answer.stdout)
    assert [(row["trigger"], row["reached"]) for row in rows] == [("milk", False), ("soon", False)]
    fitted = read_triggers(out, CATEGORIES)
    assert fitted.limits.quiet is None and len(fitted.triggers[1].pace) == 33
    calibration = fitted.triggers[0].calibration
    assert calibration is not None and calibration.source == "public.json"
    assert calibration.questions == 117 and calibration(1 / 3) == pytest.approx(0.23, abs=0.03)
    assert "never fires" in CliRunner().invoke(main, asked).output
    for wrong, code, message in (
        ("[]", 1, "no history"),
        ("{}", 2, "list of people"),
        (json.dumps([person[:9]]), 1, "2 of 8 foresights came"),
    ):
        public.write_text(wrong)
        found = CliRunner().invoke(main, asked)
        assert found.exit_code == code and message in found.output, found.output


def test_withdrawn_consent_takes_what_has_fired_along(device: list[str]) -> None:
    fired = Path(device[0]) / "fired"
    fired.write_text('["soon"]')
    assert CliRunner().invoke(main, ["federated", "device", *device, "--withdraw"]).exit_code == 0
    assert not fired.exists() and ask(device) == {"intent": {}}
