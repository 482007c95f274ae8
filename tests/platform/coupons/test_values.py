"""Values of coupons that a bandit chooses: decided once, logged, learnt, unlearnt, and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from tests.platform.coupons.test_coupons import (
    COUPONS,
    FEATURES,
    Bench,
    action,
    campaign,
    decided,
    people_of,
    purchase,
)
from tests.platform.memory_log import MemoryLog
from tests.platform.shop import BEGIN, HOUR
from tests.platform.support import Live, build, now_ms, small_settings, view, wait_until

from tactful.bandits.decisions import Decision, read_decision
from tactful.bandits.definitions import read_bandit
from tactful.bandits.learner import BanditLearner
from tactful.bandits.report import read_decisions
from tactful.cli.main import main
from tactful.config.recommendation import BanditSettings, CouponSettings
from tactful.config.settings import Settings
from tactful.coupons.decisions import CouponIssuer
from tactful.coupons.definitions import WITHHELD, load_coupons
from tactful.coupons.values import ChosenValue, chosen_value
from tactful.errors import ConfigError
from tactful.event_log.impressions import OFFER
from tactful.experiments.tally import Tally
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import coupon_offers
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Entry, Event, encode_entry

VALUES: dict[str, Any] = {
    "key": "面额",
    "arms": [
        {"name": "小", "value": {"percent": 5.0}},
        {"name": "大", "value": {"percent": 20.0, "gift": True}},
    ],
    "policy": "linear-thompson",
    "features": [{"user": "views", "scale": 10}],
    "reward": {"event": "purchase", "value": "profit", "cap": 50, "within_hours": 1},
    "min_share": 0.2,
    "state": "live",
}
BANDITS = json.dumps([VALUES])
CHOSEN = COUPONS.replace("  cost: 5\n", "  cost: 5\n  bandit: 面额\n")


def choice(number: int, features: list[float]) -> ChosenValue:
    """Return the value of an arm, as a server chooses it."""
    arm = VALUES["arms"][number]
    decision = Decision(
        key="面额",
        arm=arm["name"],
        index=number,
        propensity=0.7,
        probability=0.7,
        floor=0.3,
        choice=arm["name"],
        live=True,
        features=np.array(features),
    )
    return chosen_value(arm["value"], decision, {})


class ValueBench(Bench):
    """A desk whose campaign asks a bandit for the value."""

    arm = 0

    def open(self, **more: Any) -> CouponIssuer:
        def values(key: str, event: Event, known: Mapping[str, Any]) -> ChosenValue:
            assert key == "面额"
            return choice(self.arm, [1.0, known["spend"] / 100])

        return super().open(values=values, **more)


def test_the_value_is_logged_with_its_propensity_and_the_budget_is_as_before(
    database: MetadataStore, tmp_path: Path
) -> None:
    definition = campaign(bandit="面额", offer={"percent": 1.0, "code": "mine", "bandit_arm": "x"})
    bench = ValueBench(tmp_path / "log", database, definition)
    bench.arm = 1
    held, *given = people_of(definition, "holdout", 1) + people_of(definition, "explore", 21)
    bench.known[given[0]] = 50.0
    made = {it.user_id: it for it in bench.run(*map(action, (held, *given)))}
    assert made[held].type == WITHHELD and read_decision(made[held]) is None
    first = made[given[0]]
    assert (first.properties["percent"], first.properties["gift"]) == (20.0, True)
    assert first.properties["code"] == first.recommendation_id != "mine"
    found = read_decision(first)
    assert found is not None
    assert (found.arm, found.propensity, found.floor, found.live) == ("大", 0.7, 0.3, True)
    assert found.features == [1.0, 0.5]
    assert [made[it].type for it in given] == [OFFER] * 20 + [WITHHELD]
    assert bench.desk.left("cart") == 0, "every value may cost 5"
    rows = database.fetch(sa.select(coupon_offers))
    assert not any("features" in row.decision for row in rows), "the database knows no user"


def test_a_killed_issuer_offers_the_same_value(sqlite: MetadataStore, tmp_path: Path) -> None:
    definition = campaign(bandit="面额")
    bench = ValueBench(tmp_path / "log", sqlite, definition)
    (person,) = people_of(definition, "explore", 1)
    bench.known[person] = 50.0
    bench.log.append([encode_entry(action(person))])
    first = bench.desk.run()
    bench.arm = 1  # it would choose another one by now
    bench.desk = bench.open()
    assert bench.desk.run() == first


def learner_of(entries: list[Entry], place: Path, erased: set[str]) -> BanditLearner:
    place.mkdir(exist_ok=True)
    log: Any = MemoryLog([encode_entry(entry) for entry in entries])
    learner = BanditLearner(
        lambda: [log],
        place,
        place / "published",
        clock=lambda: BEGIN + 9 * HOUR,
        allows=lambda event: event.user_id not in erased,
    )
    learner.follow([(read_bandit(VALUES), "live")])
    learner.run()
    return learner


def test_rewards_are_learnt_as_by_brute_force(sqlite: MetadataStore, tmp_path: Path) -> None:
    """Random offers and purchases, with and without the code, some repeated, some of others."""
    rng = np.random.default_rng(5)
    definition = campaign(bandit="面额", cost=0.01)
    bench = ValueBench(tmp_path / "log", sqlite, definition)
    people = people_of(definition, "explore", 12)
    log: list[Entry] = []
    offers: list[tuple[str, str, int]] = []  # person, code, arm
    rewards: dict[str, float] = {}
    for number in range(120):
        person = people[rng.integers(12)]
        bench.arm = int(rng.integers(2))
        bench.clock.at += 61_000
        at = BEGIN + number * 10
        cause = Event(event_id=f"{person}-{number}", type="x.coupon", timestamp=at, user_id=person)
        (offer,) = bench.run(cause)
        log += [offer] * int(rng.integers(1, 3))
        offers.append((person, str(offer.properties["code"]), bench.arm))
        buyer, bought = people[rng.integers(12)], float(rng.integers(0, 60))
        mine = [code for who, code, _ in offers if who == buyer]
        more: dict[str, Any] = {"profit": bought}
        if rng.random() < 0.5:
            more["coupon"] = offers[rng.integers(len(offers))][1]
        log.append(purchase(buyer, 9.0, at=at + 5, **more))
        named = more.get("coupon", mine[-1] if mine else None)
        if named in mine:
            rewards.setdefault(named, min(bought / 50, 1.0))
    erased: set[str] = set()
    learner = learner_of(log, tmp_path, erased)
    held: Any = learner._learning["面额"].policy
    assert learner._learning["面额"].learnt == 120
    expected = [
        (sum(rewards.get(code, 0.0) for _, code, arm in offers if arm == number))
        / (1 + sum(arm == number for *_, arm in offers))
        for number in range(2)
    ]  # a ridge of 1, and the second feature is 0
    assert held.coefficients[:, 0] == pytest.approx(expected)
    found, waiting = read_decisions(
        [MemoryLog([encode_entry(it) for it in log])],
        read_bandit(VALUES),
        since=0,
        now=BEGIN + 9 * HOUR,
    )
    assert (len(found), waiting) == (120, 0)
    assert {it.decision_id: it.reward for it in found if it.reward} == {
        code: reward for code, reward in rewards.items() if reward
    }
    erased.add(people[0])
    learner.forget()
    others = [it for it in log if isinstance(it, Event) and it.user_id not in erased]
    never = learner_of([*others], tmp_path / "never", set())
    policies = [each._learning["面额"].policy.to_bytes() for each in (learner, never)]
    assert policies[0] == policies[1]


@pytest.mark.parametrize(
    ("bandits", "line", "said"),
    [
        ([], 6, "there is no bandit '面额'; there are none: write it in the file of"),
        ([{**VALUES, "key": "other"}], 6, "no bandit '面额'; there are other"),
        (
            [
                {
                    **VALUES,
                    "arms": [{"name": "a", "value": {"percent": 5}}, {"name": "b", "value": 5}],
                }
            ],
            6,
            "arm 'b': .*a mapping of texts, numbers and booleans",
        ),
        (
            [{**VALUES, "arms": [{"name": n, "value": {"percent": [5]}} for n in "ab"]}],
            6,
            "arm 'a': .*percent|arm 'a': Expected",
        ),
        (
            [{**VALUES, "arms": [{"name": n, "parameters": {}} for n in "ab"]}],
            6,
            "arm 'a' shapes recommendations: give `value`",
        ),
    ],
)
def test_values_that_do_not_fit_are_refused_with_their_line(
    bandits: list[dict[str, Any]], line: int, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "coupons.yaml"
    file.write_text(CHOSEN, "utf-8")
    held = {str(plain["key"]): read_bandit(plain) for plain in bandits}
    with pytest.raises(ConfigError, match=rf"coupons\.yaml:{line}: campaign number 1: .*{said}"):
        load_coupons(file, bandits=held)
    assert load_coupons(file, bandits={"面额": read_bandit(VALUES)})[0].bandit == "面额"


def shop_settings(place: Path) -> Settings:
    settings = small_settings(place)
    settings.features.write_text(FEATURES)
    (place / "coupons.yaml").write_text(CHOSEN, "utf-8")
    (place / "bandits.yaml").write_text(BANDITS, "utf-8")
    return replace(
        settings,
        coupons=CouponSettings(place / "coupons.yaml"),
        bandits=BanditSettings(place / "bandits.yaml"),
    )


def environment_of(settings: Settings) -> dict[str, str]:
    return {
        "TACTFUL_COUPONS__DEFINITIONS": str(settings.coupons.definitions),
        "TACTFUL_BANDITS__DEFINITIONS": str(settings.bandits.definitions),
        "TACTFUL_ENGINE__FEATURES": str(settings.features),
        "TACTFUL_STORAGE__DATA": str(settings.storage.data),
    }


def test_commands_and_servers_refuse_the_same(tmp_path: Path) -> None:
    settings = shop_settings(tmp_path)
    campaigns, file = str(settings.coupons.definitions), settings.bandits.definitions
    run = CliRunner(env=environment_of(settings)).invoke
    checked = run(main, ["coupons", "check", campaigns])
    assert checked.exit_code == 0, checked.output
    assert "value by bandit 面额" in checked.output
    file.write_text(BANDITS.replace('{"percent": 5.0}', '"5 %"'), "utf-8")
    for command in (["coupons", "check", campaigns], ["bandit", "apply", str(file)]):
        refused = run(main, command)
        assert refused.exit_code == 2
        assert f"{command[-1]}:" in refused.output and "arm '小'" in refused.output
    with pytest.raises(ConfigError, match=r"bandits\.yaml:1: bandit '面额': campaign 'cart'"):
        Platform.open(settings, build)
    with pytest.raises(ConfigError, match=r"coupons\.yaml:6: .* there is no bandit '面额'"):
        Platform.open(replace(settings, bandits=BanditSettings()), build)
    file.write_text(BANDITS, "utf-8")
    with Live(Platform.open(settings, build)) as live:
        wrong = {**VALUES, "arms": [{"name": n, "value": n} for n in "ab"]}
        answer = live.http.post("/v1/bandits", json=wrong)
        assert answer.status_code == 422 and "arm 'a'" in answer.text
        assert live.http.post("/v1/bandits", json={**wrong, "key": "other"}).status_code == 201


@pytest.mark.slow
def test_a_bandit_chooses_values_over_a_real_server(tmp_path: Path) -> None:
    """From carts over offers and purchases to what is learnt."""
    settings = shop_settings(tmp_path)
    (definition,) = load_coupons(settings.coupons.definitions)
    held = people_of(definition, "holdout", 2)
    given = people_of(definition, "explore", 12)
    with Live(Platform.open(settings, build)) as live:
        live.http.put(
            f"/v1/users/{given[-1]}/consent",
            json={"purposes": {"personalisation": False, "marketing": True}, "source": "a test"},
        )
        learner = live.platform.bandits.learner
        wait_until(lambda: learner.learnt("面额") is not None)
        for number, type_ in enumerate(("view", "add_to_cart", "leave")):
            sent = [
                view(0, it, event_id=f"{it}-{number}", type=type_, session_id=it)
                for it in (*held, *given)
            ]
            assert live.http.post("/v1/events", json=sent).json()["accepted"] == 14
        wait_until(lambda: sum(each.type == OFFER for each in decided(live)) == 11)
        offers = {str(it.user_id): it for it in decided(live) if it.type == OFFER}
        assert {*offers} == {*given[:-1]}, "an action is personalisation"
        arms = {"小": 5.0, "大": 20.0}
        sold = []
        for number, (person, offer) in enumerate(offers.items()):
            found = read_decision(offer)
            assert found is not None and found.live and 0.2 <= found.propensity <= 0.8
            assert found.features == [1.0, 0.1]
            assert offer.properties["percent"] == arms[found.arm]
            bought = {"price": 30.0, "coupon": offer.properties["code"], "profit": 25.0}
            if number % 2:
                sold.append(view(0, person, event_id=f"buy-{person}", type="purchase"))
                sold[-1]["properties"] = bought
        assert live.http.post("/v1/events", json=sold).json()["accepted"] == len(sold)
        assert live.http.get("/v1/coupons").json()["campaigns"][0]["bandit"] == "面额"
        learner._clock = lambda: now_ms() + 9 * HOUR

        def learnt() -> list[float]:
            policy: Any = learner._learning["面额"].policy
            values: list[float] = policy.coefficients[:, 0].tolist()
            return values

        def expected(people: list[str]) -> Any:
            x = np.array([1.0, 0.1])
            values = []
            for arm in arms:
                of_arm = [it for it in people if offers[it].properties["bandit_arm"] == arm]
                rewarded = sum(list(offers).index(it) % 2 for it in of_arm) * 0.5
                precision = np.eye(2) + len(of_arm) * np.outer(x, x)
                values.append(float(np.linalg.solve(precision, rewarded * x)[0]))
            return pytest.approx(values, abs=1e-4)  # features lie on a grid

        wait_until(lambda: learnt() == expected([*offers]), 30)
        shown = live.http.get("/v1/bandits/面额?days=1").json()["outcomes"]
        assert shown["waiting"] == 11, "the report has the present time"


def test_a_rollout_measures_offers() -> None:
    """An offer counts for its rollout, with the purchase that names its code."""
    people = [f"p{number}" for number in range(9)]
    offers = [
        Event(
            event_id=f"coupon:{person}",
            type=OFFER,
            timestamp=BEGIN,
            user_id=person,
            recommendation_id=person,
            properties={
                **choice(0, []).logged,
                "rollouts": ["promote:change"],
                "code": person,
            },
        )
        for person in people
    ]
    foreign = Event(
        event_id="coupon:x",
        type=OFFER,
        timestamp=BEGIN,
        user_id="x",
        properties={"rollouts": ["promote:change"]},
    )
    sold = [purchase(person, 5.0, at=BEGIN + 5, decision_id=person) for person in people[:4]]
    tally = Tally("promote", since=0, types=("purchase",), lasts=60_000)
    tally.read(enumerate(encode_entry(event) for event in (*offers, foreign, *sold)))
    tally.close(BEGIN + HOUR)
    change = tally.outcomes().arms["change"]
    assert {*change} == {*people}
    assert {person for person, seen in change.items() if seen.took} == {*people[:4]}
