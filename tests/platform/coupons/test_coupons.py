"""From a sequence that fires to a coupon, what it cost, and what all of them bring."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from tests.platform.shop import BEGIN, DAY, HOUR, Clock, write_log
from tests.platform.support import Live, build, small_settings, view, wait_until

from tactful.cli.main import main
from tactful.config.recommendation import CouponSettings
from tactful.coupons.campaign_report import CampaignReports, Funnel, read_funnel
from tactful.coupons.decisions import CouponIssuer, code_of, group_of
from tactful.coupons.definitions import (
    WITHHELD,
    CouponBudget,
    CouponDefinition,
    load_coupons,
)
from tactful.coupons.gain_fit import choose_gain, drawn_users
from tactful.coupons.report import CouponOutcomes, lift, read_coupon_outcomes
from tactful.errors import ConfigError
from tactful.event_log.impressions import OFFER
from tactful.metadata.audit import AuditTrail
from tactful.metadata.connections import METADATA
from tactful.metadata.store import MetadataStore, open_metadata
from tactful.metadata.tables import coupon_offers
from tactful.schemas.experiments.coupons import CampaignReport
from tactful.server.platform import Platform
from tactful_privacy.people.pseudonyms import Keyring
from tactful_streaming.contract.log_entries import (
    Entry,
    Event,
    decode_entry,
    encode_entry,
    named_keys,
)
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.log.event_log import EventLog

FEATURES = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 364d, slide: 28d}}
- name: coupons_30d
  entity: user
  event: x.coupon_offer
  aggregate: count
  window: {size: 28d, slide: 1d}
- name: abandoned_cart
  entity: user
  sequence: [view, add_to_cart, leave]
  within: 5m
  emit: coupon
"""
COUPONS = """
- name: cart
  action: coupon
  offer: {percent: 10}
  cost: 5
  budget: {amount: 1000, decisions: 100}
  eligible: {coupons_30d: {$lt: 1}, views: {$gte: 1}}
  holdout: 0.3
  features: [views]
"""


def campaign(**changes: Any) -> CouponDefinition:
    settings: dict[str, Any] = {
        "name": "cart",
        "action": "coupon",
        "cost": 5.0,
        "budget": CouponBudget(amount=100.0, decisions=50),
        "holdout": 0.2,
        "explore": 0.3,
    }
    return CouponDefinition(**{**settings, **changes})


def action(person: str, number: int = 0) -> Event:
    name = f"action-{person}-{number}"
    return Event(event_id=name, type="x.coupon", timestamp=BEGIN, user_id=person)


def purchase(person: str, price: float, *, at: int = BEGIN + HOUR, **more: Any) -> Event:
    return Event(
        event_id=f"buy-{person}-{at}",
        type="purchase",
        timestamp=at,
        user_id=person,
        properties={"price": price, **more},
    )


class Bench:
    """A desk on a log that can be added to."""

    def __init__(self, path: Path, store: MetadataStore, definition: CouponDefinition) -> None:
        self.log = write_log(path, [])
        self.store, self.definition, self.clock = store, definition, Clock()
        self.known: dict[str, float] = {}
        self.linked: dict[str, str] = {}
        self.keyring = Keyring(path.with_name("keyring.json"), clock=self.clock)
        self.desk = self.open()

    def open(self, **more: Any) -> CouponIssuer:
        return CouponIssuer(
            [self.definition],
            self.store,
            [self.log],
            features=lambda person, at: {"spend": self.known.get(person, 0.0)},
            clock=self.clock,
            keyring=self.keyring,
            keys_of=lambda event: [*named_keys(event), self.linked.get(str(event.user_id), "")],
            **more,
        )

    def run(self, *entries: Entry) -> list[Event]:
        self.log.append([encode_entry(entry) for entry in entries])
        made = [decode_entry(payload) for payload in self.desk.run()]
        self.desk.settle()
        return [entry for entry in made if isinstance(entry, Event)]


def people_of(definition: CouponDefinition, group: str, count: int) -> list[str]:
    names = (f"p{number}" for number in range(10_000))
    found = (name for name in names if group_of(definition, name) == group)
    return [next(found) for _ in range(count)]


def test_the_budget_holds(database: MetadataStore, tmp_path: Path) -> None:
    """The budget is never exceeded, and unused costs return to it."""
    bench = Bench(tmp_path / "log", database, campaign())
    people = people_of(bench.definition, "explore", 25)
    made = bench.run(*map(action, people))
    assert Counter(each.type for each in made) == {OFFER: 20, WITHHELD: 5}
    assert {each.properties["why"] for each in made if each.type == WITHHELD} == {
        "the budget is spent"
    }
    assert bench.desk.left("cart") == 0
    codes = [str(each.properties["code"]) for each in made if each.type == OFFER]
    used = [
        purchase(people[0], 40.0, coupon=codes[0], discount=4.0),
        purchase(people[0], 40.0, coupon=codes[0], discount=4.0, at=BEGIN + 2 * HOUR),  # again
        purchase(people[1], 40.0, coupon="no such code", discount=4.0),
        purchase(people[2], 40.0, coupon=codes[2], discount=1e9),  # the most is what it may cost
    ]
    assert bench.run(*used) == []
    assert bench.desk.left("cart") == 1.0
    bench.clock.at += 49 * HOUR
    bench.run()
    assert bench.desk.left("cart") == 100.0 - 4.0 - 5.0
    bench.run(purchase(people[3], 40.0, coupon=codes[3], discount=5.0))  # too late
    assert bench.desk.left("cart") == 91.0


def test_coupons_are_booked_after_downtime(sqlite: MetadataStore, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "log", sqlite, campaign())
    in_time, late = people_of(bench.definition, "explore", 2)
    offers = {it.user_id: it for it in bench.run(action(in_time), action(late))}
    bench.clock.at += 50 * HOUR
    bench.run(
        purchase(in_time, 9.0, coupon=offers[in_time].properties["code"], discount=5.0),
        purchase(
            late, 9.0, coupon=offers[late].properties["code"], discount=5.0, at=BEGIN + 49 * HOUR
        ),
    )
    assert bench.desk.left("cart") == 95.0


def test_a_code_is_redeemed_once_and_by_its_person(sqlite: MetadataStore, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "log", sqlite, campaign())
    ada, bob, guest = people_of(bench.definition, "explore", 3)
    visit = msgspec.structs.replace(action(guest), user_id=None, device_id=guest)
    made = bench.run(action(ada), action(bob), visit)
    codes = {it.user_id or it.device_id: it.properties["code"] for it in made}
    assert len(codes) == 3
    claims = [
        purchase(person, 9.0, coupon=codes[ada], discount=0.0, at=BEGIN + number)
        for person in ("mallory", bob)
        for number in range(500)
    ]
    bench.run(*claims, purchase(guest, 9.0, coupon=codes[guest], discount=0.0))
    assert bench.desk.left("cart") == 85.0
    bench.desk = bench.open()
    bench.linked[ada] = f"device:{guest}"
    bench.run(*(purchase(ada, 9.0, coupon=codes[ada], discount=4.0, at=BEGIN + n) for n in (1, 2)))
    bench.run(purchase(ada, 9.0, coupon=codes[guest], discount=3.0))
    assert bench.desk.left("cart") == 100.0 - 5.0 - 4.0 - 3.0
    bench.keyring.rotate()
    bench.keyring.destroy(bench.keyring.key_ids[0])  # what cannot be checked is believed
    bench.run(purchase(bob, 9.0, coupon=codes[bob], discount=5.0))
    rows = sqlite.fetch(sa.select(coupon_offers))
    assert [row.state for row in rows] == ["redeemed"] * 3
    assert not any(json.loads(row.decision)["seal"] for row in rows)


def test_refunds_and_a_smaller_budget(sqlite: MetadataStore, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "log", sqlite, campaign())
    first, *others = people_of(bench.definition, "explore", 6)
    offers = {it.user_id: it for it in bench.run(*map(action, (first, *others[:3])))}
    bench.definition = campaign(budget=CouponBudget(amount=10.0, decisions=50))
    bench.desk = bench.open()
    code = offers[first].properties["code"]
    assert bench.run(purchase(first, 9.0, coupon=code, discount=0.0)) == []
    assert bench.desk.left("cart") == 0  # 15 of 10 are out
    assert [it.type for it in bench.run(action(others[3]))] == [WITHHELD]
    bench.definition = campaign()
    bench.desk = bench.open()
    assert bench.desk.left("cart") == 85.0


def test_actions_are_decided_once(database: MetadataStore, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "log", database, campaign(eligible={"spend": {"$lt": 1}}))
    (person,) = people_of(bench.definition, "explore", 1)
    bench.log.append([encode_entry(action(person))])
    first = bench.desk.run()
    assert len(first) == 1
    assert bench.desk.needed == [bench.log.begin]  # nothing may be trimmed that is read again
    # Killed before it was appended; by now the person would not be eligible any more.
    bench.known[person] = 5.0
    bench.desk = bench.open()
    assert bench.desk.run() == first
    bench.desk.rewind()
    assert bench.desk.run() == first
    assert bench.desk.left("cart") == 95.0
    bench.desk.settle()
    assert bench.desk.needed == [bench.log.end]
    bench.desk = bench.open()
    assert bench.desk.run() == []


def test_ineligible_users_get_none(sqlite: MetadataStore, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "log", sqlite, campaign(eligible={"spend": {"$gte": 10}}))
    rich, poor = people_of(bench.definition, "explore", 2)
    bench.known = {rich: 20.0}
    (offer,) = bench.run(action(rich), action(poor), action(rich, 1))
    assert offer.user_id == rich
    assert offer.properties["code"] == code_of("cart", f"action-{rich}-0")


def test_groups_decide_who_gets_a_coupon(sqlite: MetadataStore, tmp_path: Path) -> None:
    """The holdout never gets one, targeted users only if it pays."""
    definition = campaign(gain={"constant": -1.0, "spend": 0.1}, features=("spend",))
    bench = Bench(tmp_path / "log", sqlite, definition)
    groups = {
        group: people_of(definition, group, 4) for group in ("holdout", "explore", "targeted")
    }
    bench.known = dict.fromkeys(groups["targeted"][:2], 50.0)
    made = {
        each.user_id: each
        for each in bench.run(*(action(it) for people in groups.values() for it in people))
    }
    assert {made[it].type for it in groups["holdout"]} == {WITHHELD}
    assert {made[it].type for it in groups["explore"]} == {OFFER}
    assert [made[it].type for it in groups["targeted"]] == [OFFER, OFFER, WITHHELD, WITHHELD]
    assert made[groups["targeted"][0]].properties["gain"] == 4.0
    assert made[groups["targeted"][0]].properties["features"] == [50.0]


def history(definition: CouponDefinition, people: int, *, seed: int = 3) -> list[Entry]:
    """Coupons bring 10 to who has the feature, and nothing to the others; both buy anyway."""
    rng = np.random.default_rng(seed)
    made: list[Entry] = []
    for number in range(people):
        person = f"p{number}"
        group, feature = group_of(definition, person), float(rng.random() < 0.5)
        offered = group != "holdout"
        made.append(
            Event(
                event_id=f"coupon:{person}",
                type=OFFER if offered else WITHHELD,
                timestamp=BEGIN,
                user_id=person,
                properties={"campaign": "cart", "group": group, "features": [feature]},
            )
        )
        spent = float(rng.gamma(2, 5)) + 10.0 * feature * offered
        discount: dict[str, Any] = {"coupon": person, "discount": 2.0} if offered else {}
        made += [purchase(person, spent, **discount)] * (1 + number % 2)  # some sent it twice
        made.append(purchase(person, 99.0, at=BEGIN + 2 * DAY))  # too late
    return made


@pytest.mark.slow
def test_the_holdout_shows_what_coupons_bring_and_to_whom(tmp_path: Path) -> None:
    definition = campaign(holdout=0.4, explore=1.0, features=("likes",))
    log = write_log(tmp_path, history(definition, 6_000))
    seen = read_coupon_outcomes(log, definition, until=BEGIN + DAY, lasts=DAY)
    found = lift(seen, definition, margin=0.5)
    assert found is not None
    assert found.cap is not None
    anyway = np.random.default_rng(1).gamma(2, 5, 100_000)
    gained = np.minimum(anyway + 10, found.cap) - np.minimum(anyway, found.cap)
    assert 0.5 * gained.mean() in found.revenue.anytime
    assert found.revenue.conclusive
    assert 0.5 * 0.5 * gained.mean() - 2.0 in found.profit.anytime
    assert not found.sample_ratio.mismatch
    users = drawn_users(seen, margin=1.0)
    assert users is not None
    fitted = choose_gain(
        users, ("likes",), campaign="cart", margin=1.0, at=BEGIN, groups=2, trees=2
    )
    assert fitted.chosen.kind == "linear", "one feature of two values needs no forest"
    gain = fitted.linear.weights
    assert gain["constant"] == pytest.approx(0.0, abs=0.6)
    assert gain["likes"] == pytest.approx(10.0, abs=0.8)
    early = read_coupon_outcomes(log, definition, until=BEGIN + HOUR, lasts=DAY)
    assert lift(early, definition, margin=0.5) is None
    log.close()


def outcomes_of_equals(
    seed: int, definition: CouponDefinition, people: int = 3_000
) -> CouponOutcomes:
    """A tenth of the users buys, coupons change nothing, nobody redeems one; a few pay most."""
    rng = np.random.default_rng(seed)
    treated = rng.random(people) >= definition.holdout
    spent = np.where(rng.random(people) < 0.1, rng.lognormal(3, 2.0, people), 0.0)
    nothing = np.zeros(people)
    features, unlogged = np.zeros((people, 0)), np.full(people, np.nan)
    return CouponOutcomes(treated, treated, treated, spent, nothing, features, unlogged)


def test_skewed_revenue_of_equal_groups_is_called_as_rarely_as_stated() -> None:
    """The report compared plain means: a group without a large order looked poorer."""
    definition = campaign(holdout=0.1)
    called = {"revenue": 0, "profit": 0}
    for seed in range(100):
        looks = [outcomes_of_equals(seed, definition, people) for people in (1_000, 2_000, 4_000)]
        found = [lift(seen, definition, margin=1) for seen in looks]
        for metric in called:
            called[metric] += any(one and getattr(one, metric).conclusive for one in found)
    assert max(called.values()) <= 5, called


def test_profit_subtracts_the_discounts() -> None:
    """A coupon that everybody redeems and that sells nothing more loses its cost."""
    definition = campaign(holdout=0.3)
    equal = outcomes_of_equals(1, definition)
    found = lift(replace(equal, discount=np.where(equal.treated, 4.0, 0.0)), definition, margin=0.3)
    assert found is not None
    assert -4.0 in found.profit.anytime
    assert found.profit.anytime.high < 0
    assert found.profit.difference == pytest.approx(0.3 * found.revenue.difference - 4.0)
    for few in (equal.treated[:3], np.ones(3_000, np.bool_)):
        rest = replace(equal, treated=few, spent=equal.spent[: len(few)] * 0)
        rest = replace(rest, discount=equal.discount[: len(few)])
        assert (none := lift(rest, definition, margin=0.3)) is None or not none.profit.conclusive


def test_the_report_counts_what_was_offered(tmp_path: Path) -> None:
    """Forged offers, codes of others and repetitions change nothing."""
    definition = campaign(features=("likes",))
    offers = history(definition, 200)

    def read(name: str, *more: Entry) -> CouponOutcomes:
        with write_log(tmp_path / name, [*offers, *more]) as log:
            return read_coupon_outcomes(log, definition, until=BEGIN + 3 * DAY, lasts=DAY)

    forged: list[Entry] = []
    for number in range(200):
        name = f"x{number}"
        properties: dict[str, Any] = {"campaign": "cart", "group": "explore", "code": name}
        named: dict[str, Any] = {"event_id": name, "type": OFFER, "user_id": name}
        forged.append(Event(**named, timestamp=BEGIN, properties=properties))
        forged.append(purchase(name, 1e6, coupon=name, discount=0.0))
        code, at = f"p{(number + 1) % 200}", BEGIN + 2 * HOUR
        forged.append(purchase(f"p{number}", 0.0, at=at, coupon=code, discount=5.0))
        forged.append(purchase(f"p{number}", 0.0, at=at + 1, coupon=f"p{number}", discount=5.0))
    before, after = read("before"), read("after", *forged)
    assert before.discount.max() == 2.0
    for name in ("treated", "offered", "spent", "discount"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("  cost: 5\n", "", "missing required field `cost`"),
        ("action: coupon", "action: voucher", "nothing emits 'voucher'"),
        ("amount: 1000", "amount: 1", "costs more than the whole budget"),
        ("$lt: 1", "$less: 1", "eligible"),
        ("name: cart", "name: A cart", "name must be"),
        ("holdout: 0.3", "holdout: 0", "holdout"),
        (
            "coupons_30d: {",
            "coupons_28d: {",
            "eligible: .*'coupons_28d'; did you mean 'coupons_30d'",
        ),
        (
            "views: {$gte",
            "$or: [{$not: {sold.tea: 1}}], views: {$gte",
            "no feature 'sold'; there are ",
        ),
        (
            "[views]",
            "[views, heat]",
            "features: users have no feature 'heat'; there are aba.*, views",
        ),
        (
            "holdout: 0.3",
            "gain: {constant: 1, view: 2}",
            "gain: .* 'view'; did you mean 'views'",
        ),
    ],
)
def test_impossible_campaign_is_refused(right: str, wrong: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "coupons.yaml"
    file.write_text(COUPONS)
    definitions = load_definitions(FEATURES)
    assert [each.name for each in load_coupons(file, definitions=definitions)] == ["cart"]
    file.write_text(COUPONS.replace(right, wrong, 1))
    with pytest.raises(ConfigError, match=said.replace("`", ".")):
        load_coupons(file, definitions=definitions)


def test_the_command_checks_features_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features.yaml").write_text(FEATURES)
    (tmp_path / "tactful.toml").write_text('[engine]\nfeatures = "features.yaml"\n')
    file = tmp_path / "coupons.yaml"
    run = partial(CliRunner().invoke, main)
    check = ["coupons", "check", "coupons.yaml", "--config", "tactful.toml"]
    file.write_text(COUPONS)
    assert "cart: on coupon, 30% held out" in run(check).stdout
    assert json.loads(run([*check, "--json"]).stdout)[0]["eligible"]["views"] == {"$gte": 1}
    file.write_text(COUPONS.replace("views: {$gte", "view: {$gte"))
    wrong = run(check)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "users have no feature 'view'; did you mean 'views'?" in wrong.stderr
    (tmp_path / "features.yaml").write_text("- {name: broken}")
    assert (broken := run(check)).exit_code == 2 and "features.yaml:1" in broken.stderr


@pytest.mark.slow
def test_over_a_real_server_from_the_cart_to_the_report(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    settings.features.write_text(FEATURES)
    file = tmp_path / "coupons.yaml"
    file.write_text(COUPONS)
    settings = replace(settings, coupons=CouponSettings(file))
    (definition,) = load_coupons(file)
    held, given = (people_of(definition, group, 6) for group in ("holdout", "explore"))

    def leave(live: Live, people: Sequence[str], visit: int) -> None:
        for number, type_ in enumerate(("view", "add_to_cart", "leave")):
            session = f"{visit}-{number}"
            sent = [
                view(0, it, event_id=f"{it}-{session}", type=type_, session_id=f"{it}-{visit}")
                for it in people
            ]
            answer = live.http.post("/v1/events", json=sent).json()
            assert answer["accepted"] == len(people), answer

    def count(live: Live, person: str) -> float:
        known: Any = live.platform.features(person, None).features["coupons_30d"]
        return float(known)

    with Live(Platform.open(settings, build)) as live:
        leave(live, [*held, *given], 0)
        wait_until(lambda: all(count(live, person) == 1 for person in given))
        forged = view(0, given[0], event_id="f", type=OFFER, properties={"code": "free"})
        assert live.http.post("/v1/events", json=[forged]).json()["accepted"] == 0
        offers = {each.user_id: each for each in decided(live) if each.type == OFFER}
        assert {*offers} == {*given}
        sold = [
            view(0, person, event_id=f"buy-{person}", type="purchase", properties={"price": 20.0})
            for person in held
        ]
        for person, offer in offers.items():
            bought = {"price": 30.0, "coupon": offer.properties["code"], "discount": 3.0}
            sold.append(view(0, str(person), event_id=f"buy-{person}", type="purchase"))
            sold[-1]["properties"] = bought
        assert live.http.post("/v1/events", json=sold).json()["accepted"] == 12
        desk = live.platform.coupons
        assert desk is not None
        wait_until(lambda: desk.left("cart") == 1000.0 - 6 * 3.0)
        listed = live.http.get("/v1/coupons").json()
        (shown,) = listed["campaigns"]
        counted = {name: shown[name] for name in ("eligible", "withheld", "offered", "redeemed")}
        assert counted == {"eligible": 12, "withheld": 6, "offered": 6, "redeemed": 6}
        assert (shown["left"], shown["expired"], listed["webhook"]) == (982.0, 0, None)
        assert shown["bandit"] is None
        told = live.http.get("/v1/coupons/cart?hours=1e-9&margin=0.5").json()
        assert (told["matched"], told["decided"], told["offered"]) == (12, 12, 6)
        assert told["withheld"] == {"held out": 6}
        assert (told["people"], told["sample_ratio"]["people"]["holdout"]) == (12, 6)
        assert live.http.get("/v1/coupons/none").status_code == 404
        assert live.http.get("/v1/coupons/cart?margin=2").status_code == 400
    # Again in another run of the server: they have had theirs, and the cap holds.
    with Live(Platform.open(settings, build)) as live:
        leave(live, given, 1)
        leave(live, people_of(definition, "explore", 7)[6:], 1)
        wait_until(lambda: sum(each.type == OFFER for each in decided(live)) == 7)
        assert all(count(live, person) == 1 for person in given)
    environment = {
        "TACTFUL_COUPONS__DEFINITIONS": str(file),
        "TACTFUL_STORAGE__DATA": str(settings.storage.data),
        "TACTFUL_CONSENT__DEFAULT": "assume",
    }
    told = CliRunner().invoke(
        main, ["coupons", "report", "cart", "--hours", "1e-9", "--json"], env=environment
    )
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["sample_ratio_mismatch"] is False
    command = ["coupons", "fit", "cart", "--hours", "1e-9", "--install", "--json"]
    fitted = CliRunner().invoke(main, command, env=environment)
    assert fitted.exit_code == 0, fitted.output
    assert json.loads(fitted.stdout)["chosen"] == "linear", "12 users are too few for a forest"
    installed = settings.storage.data / "coupons" / "cart.json"
    assert installed.exists()
    with contextlib.closing(open_metadata(settings.storage.data / METADATA)) as metadata:
        (entry, *_), _ = AuditTrail(metadata, clock=Clock()).entries(action="coupons.install")
    assert entry.target == "gain of cart" and "linear" in entry.detail
    removed = CliRunner().invoke(main, ["coupons", "uninstall", "cart"], env=environment)
    assert removed.exit_code == 0 and not installed.exists()
    again = CliRunner().invoke(main, ["coupons", "uninstall", "cart"], env=environment)
    assert again.exit_code == 2 and "no model is installed" in again.output


def test_a_funnel_counts_each_action_and_decision_once(tmp_path: Path) -> None:
    definition = campaign()
    offer = Event(
        event_id="coupon:a",
        type=OFFER,
        timestamp=BEGIN,
        user_id="ann",
        properties={"campaign": "cart", "group": "explore"},
    )
    held = msgspec.structs.replace(offer, event_id="coupon:b", type=WITHHELD)
    forged = msgspec.structs.replace(offer, event_id="other:c")
    foreign = msgspec.structs.replace(
        offer, event_id="coupon:d", properties={"campaign": "another"}
    )
    made = [*[action("ann")] * 2, action("bob"), *[offer] * 2, held, forged, foreign]
    with contextlib.closing(write_log(tmp_path / "log", made)) as log:
        assert read_funnel(log, definition) == Funnel(2, 1, {"": 1})


def test_partitions_are_reported_together(sqlite: MetadataStore, tmp_path: Path) -> None:
    definition = campaign(holdout=0.4)
    made = history(definition, 2_000)
    halves: list[list[Entry]] = [[], []]
    for entry in made:
        assert isinstance(entry, Event)
        halves[int(str(entry.user_id)[1:]) % 2].append(entry)
    with contextlib.ExitStack() as stack:
        whole, *parts = (
            stack.enter_context(contextlib.closing(write_log(tmp_path / f"log{number}", entries)))
            for number, entries in enumerate([made, *halves])
        )
        clock = Clock()
        clock.at = BEGIN + 2 * DAY

        def report(*logs: EventLog) -> CampaignReport:
            reports = CampaignReports(
                [definition], sqlite, lambda: logs, lambda name: 7.0, clock=clock
            )
            return reports.of("cart", margin=0.5, hours=24)

        together = report(*parts)
        assert together == report(whole)
        assert together.people == 2_000
        seen = read_coupon_outcomes(whole, definition, until=clock.at, lasts=DAY)
        expected = lift(seen, definition, margin=0.5)
    assert expected is not None
    revenue, margin = together.effects
    assert revenue.difference == pytest.approx(expected.revenue.difference)
    assert margin.anytime.low == pytest.approx(expected.profit.anytime.low)
    assert together.cap == expected.cap


def decided(live: Live) -> list[Event]:
    (log,) = live.platform.backend.partitions()
    entries = [decode_entry(payload) for _, payload in log.read(log.begin, 10_000)]
    return [
        entry for entry in entries if isinstance(entry, Event) and entry.type in (OFFER, WITHHELD)
    ]
