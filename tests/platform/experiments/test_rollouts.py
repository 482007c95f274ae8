"""Rollouts are kept, looked at and moved: once, by whom and why, and never by halves."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from tests.platform.shop import BEGIN, HOUR, Clock, write_log
from tests.platform.support import Live, build, small_settings, wait_until

from tactful.cli.main import main
from tactful.config.recommendation import RecommendSettings
from tactful.errors import ConfigError, ModelError
from tactful.event_log.recipients import Recipients, RecommendationIds
from tactful.experiments.controller import (
    RolloutController,
    apply_file,
    charges_of,
    served_now,
    write_served,
)
from tactful.experiments.definitions import (
    CHANGE,
    CONTROL,
    GuardrailDefinition,
    RolloutDefinition,
    experiment_at,
    load_rollouts,
)
from tactful.experiments.messages import move
from tactful.experiments.serving import ServedRollouts
from tactful.experiments.store import RolloutStore, StoredRollout
from tactful.experiments.tally import Tally, read_arm_outcomes, read_on
from tactful.metadata.store import MetadataStore
from tactful.models.audit_log import ModelLog
from tactful.server.platform import Platform
from tactful_bandits.assignment.assign import assign
from tactful_bandits.errors import StatisticsError
from tactful_bandits.rollouts.lifecycle import Rollout, RolloutLook, judge_rollout
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import DAY_MS
from tactful_privacy.people.pseudonyms import Keyring
from tactful_streaming.contract.log_entries import Entry, Event
from tactful_streaming.contract.subject_ids import SubjectIds

PEOPLE = [f"p{number}" for number in range(4_000)]
STAGES = (0.5, 1.0)


def definition(**changes: Any) -> RolloutDefinition:
    settings: dict[str, Any] = {
        "key": "cheaper",
        "change": {"objective": {"relevance": 1, "price": 0.3}},
        "guardrails": (GuardrailDefinition(metric="takers", minimum_units=100),),
        "stages": STAGES,
        "stage_hours": 2.0,
        "start": True,
    }
    return RolloutDefinition(**{**settings, **changes})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(sqlite: MetadataStore, clock: Clock) -> RolloutStore:
    return RolloutStore(sqlite, clock=clock)


def stored_in(store: RolloutStore) -> StoredRollout:
    stored = store.find("cheaper")
    assert stored is not None
    return stored


def event(kind: str, person: str, at: int, **changes: Any) -> Event:
    """An event about the list of a person, which is named after the person."""
    names = {"event_id": f"{kind}:{person}", "recommendation_id": person}
    return Event(**{"type": kind, "timestamp": at, "user_id": person, **names, **changes})


def history_of(people: list[str], control: float, change: float) -> list[Entry]:
    """Each person sees one list ten seconds after the begin; the shares given click on it."""
    made: list[Entry] = []
    experiment = experiment_at("cheaper", 0.5)
    taken = {CONTROL: 0.0, CHANGE: 0.0}
    for person in people:
        arm = assign(experiment, person).arm or CONTROL
        at = BEGIN + 10_000
        properties = {"items": ["i1"], "rollouts": [f"cheaper:{arm}"]}
        made.append(event("impression", person, at, properties=properties))
        taken[arm] += change if arm == CHANGE else control
        if taken[arm] >= 1:
            taken[arm] -= 1
            made.append(event("click", person, at + 1_000, item_id="i1"))
    return made


def purchase_of(person: str, **properties: Any) -> Event:
    """Return a purchase from the recommendation of a person."""
    changes = {"event_id": f"purchase:{properties}", "properties": properties}
    return event("purchase", person, BEGIN + 20_000, item_id="i1", **changes)


def keeper_of(
    store: RolloutStore, path: Path, made: Sequence[Entry], clock: Clock
) -> RolloutController:
    log = write_log(path, made)
    return RolloutController(store, lambda: [log], every_ms=60_000, clock=clock)


def test_harm_rolls_back(database: MetadataStore, clock: Clock, tmp_path: Path) -> None:
    store = RolloutStore(database, clock=clock)
    assert store.apply(definition(), by="ann", reason="cheaper things")
    keeper = keeper_of(store, tmp_path / "log", history_of(PEOPLE, 0.3, 0.1), clock)
    clock.at += HOUR // 2  # nobody's time is over
    (first,) = keeper.run()
    assert first.guardrails == {"takers": "too few data"}
    assert first.sample_ratio == "ok"
    assert keeper.run() == []  # not due yet
    clock.at += HOUR
    (second,) = keeper.run()
    assert (second.number, second.guardrails) == (2, {"takers": "harm"})
    stored = stored_in(store)
    assert (stored.rollout.state, stored.rollout.share) == ("rolled back", 0)
    assert served_now(store.all()) == []
    lines = store.changes("cheaper")
    assert [(line.action, line.changed_by) for line in lines] == [
        ("applied", "ann"),
        ("draft → shadow", "ann"),
        ("shadow → canary", "ann"),
        ("canary → rolled back", "system"),
    ]
    assert lines[-1].reason == "harm: takers"
    assert keeper.run() == []


def test_harmless_changes_advance(store: RolloutStore, clock: Clock, tmp_path: Path) -> None:
    """A harmless change reaches all users; a sample ratio mismatch holds it."""
    store.apply(definition(), by="ann", reason="r")
    made = history_of(PEOPLE, 0.3, 0.3)
    keeper = keeper_of(store, tmp_path / "log", made, clock)
    clock.at += 2 * HOUR
    (look,) = keeper.run()
    assert look.guardrails["takers"] in ("undecided", "no harm")
    after = stored_in(store).rollout
    assert (after.stage, after.share) == (1, 1.0)
    clock.at += 2 * HOUR
    keeper.run()
    assert stored_in(store).rollout.decision == "ship"
    assert [each.share for each in served_now(store.all())] == [1.0]
    store.archive("cheaper", by="ann", reason="written into experiments.yaml")
    assert served_now(store.all()) == []
    store.apply(definition(key="other"), by="ann", reason="r")
    lost: list[Entry] = []  # the same lists, but for a third of those who get the change
    for entry in made:
        assert isinstance(entry, Event)
        drawn = entry.properties.get("rollouts")
        arm = str(drawn[0]).partition(":")[2] if isinstance(drawn, list) else ""
        if arm and not (arm == CHANGE and int(str(entry.user_id)[1:]) % 3 == 0):
            properties = {"items": ["i1"], "rollouts": [f"other:{arm}"]}
            changes: dict[str, Any] = {"properties": properties, "timestamp": clock.at + 10_000}
            changes["recommendation_id"] = f"other:{entry.user_id}"
            changes["event_id"] = f"impression:{changes['recommendation_id']}"
            lost.append(msgspec.structs.replace(entry, **changes))
    keeper = keeper_of(store, tmp_path / "lost", lost, clock)
    clock.at += HOUR // 2
    (look,) = keeper.run()
    assert (look.sample_ratio, look.state) == ("mismatch", "held")
    moved = move(store, "other", "advance", by="bob", reason="a filter dropped them")
    assert moved.rollout.state == "canary"
    assert store.changes("other")[-1].changed_by == "bob"


def test_concurrent_looks(database: MetadataStore, clock: Clock, tmp_path: Path) -> None:
    store = RolloutStore(database, clock=clock)
    store.apply(definition(), by="ann", reason="r")
    made = history_of(PEOPLE[:500], 0.3, 0.3)
    log = write_log(tmp_path / "log", made)
    keepers = [
        RolloutController(store, lambda: [log], every_ms=60_000, clock=clock) for _ in range(4)
    ]
    for _ in range(3):
        clock.at += 5 * 60_000
        with ThreadPoolExecutor(4) as pool:
            said = [look for looks in pool.map(lambda it: it.run(), keepers) for look in looks]
        assert len(said) == 1
    assert [look.number for look in store.looks("cheaper")] == [3, 2, 1]


@pytest.mark.slow
def test_killed_look(store: RolloutStore, clock: Clock, tmp_path: Path) -> None:
    """Killed before the transaction ends, nothing is there; the next look decides it."""
    store.apply(definition(), by="ann", reason="r")
    write_log(tmp_path / "log", history_of(PEOPLE, 0.3, 0.1)).close()
    program = f"""
import os, signal
from pathlib import Path
import tactful.experiments.store as store_module
from tactful.metadata.store import open_metadata
from tactful.experiments.controller import RolloutController
from tactful_streaming.log.embedded_log import EmbeddedLog
update = store_module._update
def die(*what, **values):
    update(*what, **values)
    os.kill(os.getpid(), signal.SIGKILL)
store_module._update = die
clock = lambda: {BEGIN + 3 * HOUR // 2}
database = open_metadata(Path({str(tmp_path / "metadata.db")!r}))
store = store_module.RolloutStore(database, clock=clock)
log = EmbeddedLog(Path({str(tmp_path / "log")!r}), read_only=True)
RolloutController(store, lambda: [log], every_ms=60_000, clock=clock).run()
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    stored = stored_in(store)
    assert (stored.rollout.state, stored.looks, store.looks("cheaper")) == ("canary", 0, [])
    clock.at += 3 * HOUR // 2
    again = keeper_of(store, tmp_path / "log", [], clock)
    assert [look.number for look in again.run()] == [1]
    assert stored_in(store).rollout.state == "rolled back"
    actions = [line.action for line in store.changes("cheaper")]
    assert actions.count("canary → rolled back") == 1


def test_as_the_share_grows_nobody_who_has_the_change_loses_it() -> None:
    arms = [
        [assign(experiment_at("k", share), person).arm for person in PEOPLE[:1_000]]
        for share in (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
    ]
    for before, after in pairwise(arms):
        assert all(b != CHANGE or a == CHANGE for b, a in zip(before, after, strict=True))
    assert {*arms[0]} == {CONTROL}
    assert {*arms[-1]} == {CHANGE}


def test_trials_exclude_promotions(database: MetadataStore, clock: Clock) -> None:
    store, log = RolloutStore(database, clock=clock), ModelLog(database, clock=clock)
    store.apply(definition(change={"model": "7"}, start=False), by="ann", reason="r")
    with (
        log.entry("promote", "ranker", by="bob", reason="r", version="8"),
        pytest.raises(ConfigError, match="the champion is being changed"),
    ):
        move(store, "cheaper", "start", by="ann", reason="r")
    move(store, "cheaper", "start", by="ann", reason="r")
    with (
        pytest.raises(ModelError, match="rollout 'cheaper' compares a model"),
        log.entry("rollback", "ranker", by="bob", reason="r"),
    ):
        pass
    with log.entry("train", "ranker", by="bob", reason="r"):
        pass
    move(store, "cheaper", "rollback", by="ann", reason="enough")
    with log.entry("promote", "ranker", by="bob", reason="r", version="8"):
        pass


def test_rollouts_that_change_the_same_exclude_each_other(store: RolloutStore) -> None:
    store.apply(definition(), by="ann", reason="r")
    store.apply(definition(key="varied", change={"diversity": {"strength": 2}}), by="a", reason="r")
    with pytest.raises(ConfigError, match="'cheaper' goes on and changes objective, too"):
        store.apply(definition(key="margins"), by="ann", reason="r")
    assert [each.key for each in store.all()] == ["cheaper", "varied"]  # none of it was kept


def test_begun_plans_stay(store: RolloutStore, clock: Clock, tmp_path: Path) -> None:
    draft = definition(start=False)
    assert store.apply(draft, by="ann", reason="r")
    assert not store.apply(draft, by="ann", reason="r")
    assert store.apply(definition(start=False, alpha=0.02), by="ann", reason="r")
    assert store.apply(definition(), by="ann", reason="r")
    with pytest.raises(ConfigError, match="has begun"):
        store.apply(definition(alpha=0.02), by="ann", reason="r")
    file = tmp_path / "rollouts.yaml"
    file.write_text("- {key: cheaper, change: {objective: {price: 2}}}\n")
    apply_file(store, file)  # a warning; the server is up
    assert stored_in(store).definition == definition()


REVENUE_PRIVATELY = "- {key: a, change: {model: '1'}, epsilon: 1, guardrails: [{metric: revenue}]}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {key: a, change: {}}", "change is empty"),
        ("- {key: ranking, change: {model: '1'}}", "a key has"),
        ("- {key: A b, change: {model: '1'}}", "a key has"),
        ("- {key: a, change: {model: 1}}", "written as text"),
        ("- {key: a, change: {colour: red}}", "there is no parameter 'colour'"),
        ("- {key: a, change: {model: '1'}, stage: 3}", "unknown field `stage`"),
        ("- {key: a, change: {model: '1'}, stages: [0.5, 0.1]}", "stages must be"),
        ("- {key: a, change: {model: '1'}, stage_hours: 0.5}", "make outcome_hours shorter"),
        ("- {key: a, change: {model: '1'}, guardrails: [{metric: joy}]}", "no metric 'joy'"),
        ("- {key: a, change: {model: '1'}, stages: [0.00001]}", "none of the 10000 buckets"),
        ("- {key: a, change: {model: '1'}}\n- {key: a, change: {model: '1'}}", "written twice"),
        (REVENUE_PRIVATELY, "leave the guardrail 'revenue' out"),
        ("- {key: a, change: {model: '1'}, epsilon: 0}", "epsilon"),
        ("key: a", "must be a list"),
        ("- [", "cannot be read"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "rollouts.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_rollouts(file)
    assert str(file) in str(caught.value)


def test_served_rollouts_follow_the_file(store: RolloutStore, tmp_path: Path) -> None:
    file = tmp_path / "rollouts.json"
    lists = ServedRollouts(file)
    write_served(file, store)
    assert not file.exists()
    assert not lists.refresh()
    store.apply(definition(), by="ann", reason="r")
    store.apply(definition(key="model", change={"model": "7"}), by="ann", reason="r")
    write_served(file, store)
    assert lists.refresh()
    assert not lists.refresh()
    seen = {lists.draw(p, {}, lambda version: True).variant()["cheaper"] for p in PEOPLE[:50]}
    assert seen == {CONTROL, CHANGE}
    one = lists.draw("p1", {"cheaper": CHANGE}, lambda version: True)
    assert set(one.parts or ()) == {"objective"}
    assert one.to_log_fields()["rollouts"] == [f"model:{one.variant()['model']}"]
    assert not lists.draw(None, {}, lambda version: True).assignments
    # Who cannot rank by the model leaves it out for both arms.
    assert "model" not in lists.draw("p1", {}, lambda version: False).variant()
    move(store, "cheaper", "rollback", by="ann", reason="r")
    move(store, "model", "rollback", by="ann", reason="r")
    write_served(file, store)
    assert lists.refresh()
    assert lists.rollouts == ()


def test_an_older_publication_does_not_replace_a_newer_one(
    store: RolloutStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread reads the stages, another moves them and publishes; the file has the last."""
    file, lists = tmp_path / "rollouts.json", ServedRollouts(tmp_path / "rollouts.json")
    store.apply(definition(), by="ann", reason="r")
    read, released, whole = threading.Event(), threading.Event(), store.all

    def slow() -> list[StoredRollout]:
        found = whole()
        read.set()
        assert released.wait(30)
        return found

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as threads:
        patch.setattr(store, "all", slow)
        first = threads.submit(write_served, file, store)
        assert read.wait(30)
        patch.undo()
        move(store, "cheaper", "rollback", by="ann", reason="r")
        second = threads.submit(write_served, file, store)
        wait([second], timeout=0.2)
        released.set()
        for it in (first, second):
            it.result(30)
    lists.refresh()
    assert lists.rollouts == ()


def test_a_tally_that_reads_on_counts_what_one_reading_counts(tmp_path: Path) -> None:
    made = history_of(PEOPLE[:300], 0.4, 0.2)
    made.append(purchase_of("p1", price=2.5, quantity=3))
    log = write_log(tmp_path / "log", made)
    settings: dict[str, Any] = {"since": BEGIN, "types": ("click",), "lasts": HOUR}
    whole = read_arm_outcomes(log, "cheaper", until=BEGIN + 2 * HOUR, **settings)
    tally = Tally("cheaper", **settings)
    for offset in range(log.begin, log.end, 7):
        tally.read(log.read(offset, min(7, log.end - offset)))
    tally.close(BEGIN + 2 * HOUR)
    assert tally.outcomes() == whole
    assert sum(people["p1"].revenue for people in whole.arms.values() if "p1" in people) == 7.5
    assert whole.exposed == {arm: len(people) for arm, people in whole.arms.items()}
    nobody = Tally("cheaper", allows=lambda event: False, **settings)
    nobody.read(log.read(log.begin, 100))
    assert not nobody.outcomes().exposed
    log.close()


def test_made_up_ids_displace_no_early_outcome(tmp_path: Path) -> None:
    """Workers may log a list after its outcome; clients can send any number of other ids."""
    ids = RecommendationIds(Keyring(tmp_path / "keyring.json", clock=lambda: BEGIN))
    shown, click = history_of(["p1"], 1.0, 1.0)
    assert isinstance(shown, Event)
    assert isinstance(click, Event)
    signed = {"recommendation_id": ids.sign("r", shown.timestamp, "p1", shown.properties)}
    forged = (event("click", f"x{n}", BEGIN + 20_000, item_id="i1") for n in range(10_001))
    made = [msgspec.structs.replace(click, **signed), *forged]
    log = write_log(tmp_path / "log", [*made, msgspec.structs.replace(shown, **signed)])
    recipients = Recipients(ids=ids)
    tally = Tally("cheaper", since=BEGIN, types=("click",), lasts=HOUR, recipients=recipients)
    read_on(log, tally, log.begin)
    tally.close(BEGIN + 2 * HOUR)
    (people,) = tally.outcomes().arms.values()
    assert people["p1"][:2] == (1, 1)
    log.close()


def test_a_list_that_comes_again_is_counted_once(tmp_path: Path) -> None:
    shown, click = history_of(["p1"], 1.0, 1.0)
    log = write_log(tmp_path / "log", [shown, click])
    tally = Tally("cheaper", since=BEGIN, types=("click",), lasts=HOUR)
    for hours in (2, 3):
        tally.read(log.read(log.begin, 10))
        tally.close(BEGIN + hours * HOUR)
    (people,) = tally.outcomes().arms.values()
    assert people["p1"][:2] == (1, 1)
    log.close()


def test_a_purchase_that_was_sent_twice_is_paid_once(tmp_path: Path) -> None:
    (shown,) = history_of(["p1"], 0.0, 0.0)
    bought = purchase_of("p1", price=2.0)
    absurd = purchase_of("p1", price=1e308, quantity=1e10)  # the API accepts it from anybody
    log = write_log(tmp_path / "log", [bought, shown, bought, absurd])
    tally = Tally("cheaper", since=BEGIN, types=("click",), lasts=HOUR)
    tally.read(log.read(log.begin, 10))
    tally.close(BEGIN + 2 * HOUR)
    (people,) = tally.outcomes().arms.values()
    assert people["p1"].revenue == 2.0
    log.close()


def test_a_failing_look_does_not_stop_the_others(
    store: RolloutStore, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, change in (("a", {"diversity": {"strength": 2}}), ("cheaper", {"model": "7"})):
        store.apply(definition(key=key, change=change), by="ann", reason="r")
    keeper = keeper_of(store, tmp_path / "log", [], clock)

    def judge(rollout: Rollout, *what: Any, **more: Any) -> RolloutLook:
        if rollout.plan.experiment == "a":
            raise StatisticsError("a planted one")
        return judge_rollout(rollout, *what, **more)

    monkeypatch.setattr("tactful.experiments.controller.judge_rollout", judge)
    clock.at += HOUR
    assert len(keeper.run()) == 1
    assert [(each.key, each.looks) for each in store.all()] == [("a", 0), ("cheaper", 1)]


def test_erased_users_leave_all_counts(store: RolloutStore, clock: Clock, tmp_path: Path) -> None:
    store.apply(definition(), by="ann", reason="r")
    people = ["p1", "p2", "zoe"]
    made = history_of(people, 1.0, 1.0)
    later_list = {"event_id": "e", "recommendation_id": "a list that comes later"}
    early = event("click", "zoe", BEGIN, item_id="i1", **later_list)
    keeper = keeper_of(store, tmp_path / "log", [*made, early], clock)

    def held() -> str:
        tally = keeper._watched["cheaper"].tally
        return repr([tally._arms, tally._people, tally._open, tally._early])

    for later in (HOUR // 2, HOUR):  # while lists are open, and when they are counted
        clock.at += later
        keeper._watched.clear()
        (look,) = keeper.run()
        assert "zoe" in held()
        keeper.forget(SubjectIds(users=frozenset({"zoe"})))
        assert "zoe" not in held()
        assert all(person in held() for person in ("p1", "p2"))
        assert look.state == "canary"


def test_http_and_commands_move_a_rollout_with_its_author(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(tmp_path)
    file = tmp_path / "rollouts.yaml"
    accepted = "accept_low_power: a test"
    file.write_text(
        f"- {{key: cheaper, change: {{objective: {{price: 2}}}}, start: true, {accepted}}}\n"
    )
    settings = replace(settings, recommend=RecommendSettings(rollouts=file, record_rollouts=False))
    served = settings.storage.data / "rollouts.json"
    with Live(Platform.open(settings, build)) as live:
        found = live.http.get("/v1/experiments").json()["experiments"]
        states = [(each["key"], each["state"], each["share"]) for each in found]
        assert states == [("cheaper", "canary", 0.01)]
        monkeypatch.setattr(live.platform.rollout_controller, "_has_model", lambda: True)
        body: dict[str, Any] = {"key": "varied", "change": {"diversity": {"strength": 1}}}
        body["accept_low_power"] = "a test"
        made = live.http.post("/v1/experiments", json=body)
        assert made.status_code == 201, made.text
        for step in ("shadow", "advance"):
            answer = live.http.post(f"/v1/experiments/varied/{step}", json={"reason": "now"})
            assert answer.status_code == 200, answer.text
        assert b"varied" in served.read_bytes()
        wrong = live.http.post("/v1/experiments/varied/start", json={"reason": "again"})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid")
        assert "it is canary, not shadow" in wrong.text
        assert live.http.post("/v1/experiments/varied/fly", json={"reason": "r"}).status_code == 404
        assert live.http.get("/v1/experiments/none").status_code == 404
        assert live.http.get("/v1/experiments/none/readout").status_code == 404
        found = live.http.get("/v1/experiments/varied/readout").json()
        assert (found["source"], found["stage"], found["effects"]) == ("exact", 0, [])
        told = live.http.get("/v1/experiments/varied/readout?source=released").json()
        assert "no released numbers" in told["reason"]
        assert live.http.get("/v1/experiments/varied/readout?stage=3").status_code == 422
        ranking = live.http.get("/v1/experiments/ranking/readout?days=2").json()
        assert ranking["sample_ratio"]["expected"] == {"heuristic": 0.1, "learned": 0.9}
        data = ["--data", str(settings.storage.data)]
        command = ["experiment", "rollback", "varied", "--reason", "odd", "--by", "eve", *data]
        told = CliRunner().invoke(main, command)
        assert told.exit_code == 0, told.output
        wait_until(lambda: b"varied" not in served.read_bytes())
        history = live.http.get("/v1/experiments/varied").json()["history"]
        assert history[-1]["changed_by"] == "eve"
        assert history[-1]["reason"] == "odd"
        assert history[0]["changed_by"] == "the API without keys"
        assert [line["reason"] for line in history[1:3]] == ["now", "now"]
        listed = CliRunner().invoke(main, ["experiment", "list", *data])
        assert "varied  rolled back: keep" in listed.output
        shown = CliRunner().invoke(main, ["experiment", "show", "varied", *data])
        assert "canary → rolled back" in shown.output


def test_analysts_read_no_exact_number(locked: Live) -> None:
    key, _ = locked.platform.keys.create({"analyst"})
    locked.platform.keys.refresh()
    headers = {"X-API-Key": key}
    locked.platform.rollouts.apply(definition(), by="ann", reason="r")
    wait_until(lambda: locked.http.get("/v1/experiments", headers=headers).status_code == 200)
    for path in ("ranking/readout", "cheaper/readout?source=exact"):
        answer = locked.http.get(f"/v1/experiments/{path}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
    told = locked.http.get("/v1/experiments/cheaper/readout", headers=headers).json()
    assert (told["source"], told["effects"]) == ("released", [])


def test_a_change_is_recorded_with_the_key_that_made_it(locked: Live) -> None:
    key, about = locked.platform.keys.create({"admin"})
    body: dict[str, Any] = {"key": "varied", "change": {"diversity": {"strength": 1}}}
    body["accept_low_power"] = "a test"
    made = locked.http.post("/v1/experiments", json=body, headers={"x-api-key": key})
    assert made.status_code == 201
    assert made.json()["history"][0]["changed_by"] == f"key {about.id}"


def private(**changes: Any) -> RolloutDefinition:
    return definition(epsilon=1.0, stage_hours=24.0, **changes)


def test_private_looks(database: MetadataStore, clock: Clock, tmp_path: Path) -> None:
    store = RolloutStore(database, clock=clock)
    store.apply(private(), by="ann", reason="r")
    made = history_of(PEOPLE, 0.3, 0.1)
    keeper = keeper_of(store, tmp_path / "log", made, clock)
    clock.at += HOUR + 10_000  # the last millisecond of their time counts to them
    (first,) = keeper.run()
    assert first.released is not None
    assert first.state == "rolled back"
    exact: dict[str, list[int]] = {CONTROL: [0, 0], CHANGE: [0, 0]}
    for person in PEOPLE:
        exact[assign(experiment_at("cheaper", 0.5), person).arm or ""][1] += 1
    took = {str(it.user_id) for it in made if isinstance(it, Event) and it.type == "click"}
    for person in took:
        arm = exact[assign(experiment_at("cheaper", 0.5), person).arm or ""]
        arm[0], arm[1] = arm[0] + 1, arm[1] - 1
    noise = [first.released[arm][cell] - exact[arm][cell] for arm in exact for cell in (0, 1)]
    assert max(map(abs, noise)) <= 30  # at ε = 1 it is above 30 once in 10¹³
    assert store.looks("cheaper") == [first]


def test_private_looks_are_charged_before_the_draw(
    store: RolloutStore, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each stage costs epsilon on each day of its users, once; a full budget stops the looks."""
    store.apply(private(), by="ann", reason="r")
    log = write_log(tmp_path / "log", history_of(PEOPLE, 0.3, 0.1))
    ledgers = [
        Ledger(tmp_path / f"{n}.db", daily_epsilon=epsilon, clock=clock)
        for n, epsilon in enumerate(("1/2", "3/2"))
    ]
    poor, rich = (
        RolloutController(store, lambda: [log], every_ms=60_000, clock=clock, charge=ledger.charge)
        for ledger in ledgers
    )
    clock.at += HOUR + 10_000
    assert poor.run() == [] and ledgers[0].charges() == []  # refused before anything is drawn
    assert poor.run() == []
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1  # the reason is logged once
    assert store.looks("cheaper") == []
    assert [look.released is not None for look in rich.run()] == [True]
    days = range((clock.at - HOUR - 10_000) // DAY_MS, clock.at // DAY_MS + 1)
    charged = [(it.first_day, float(it.loss.epsilon), it.purpose) for it in ledgers[1].charges()]
    assert charged == [(day, 1.0, "rollouts") for day in days]
    assert [answer.values for answer in ledgers[1].answers(days[0], days[-1])] == [None] * len(days)


def test_looks_of_one_stage_are_charged_once() -> None:
    """Looks of a stage share the names of their charges; another stage has names of its own."""
    rollout = Rollout(private().plan())

    def stage(since: int) -> StoredRollout:
        return StoredRollout(private(), replace(rollout, since=since), 1, False, 0, 0, "")

    first, second = (charges_of(stage(0), at, at + HOUR) for at in (0, HOUR))
    assert first == second
    longer = charges_of(stage(0), 0, 2 * DAY_MS)
    assert [query.first_day for query in longer] == [0, 1, 2] and longer[:1] == first
    assert {query.name for query in charges_of(stage(1), 0, HOUR)}.isdisjoint({first[0].name})


def test_a_user_stands_in_one_private_look_of_a_stage(
    store: RolloutStore, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds also if the log is read again."""

    class Silence:
        """No noise, so that what was counted can be seen."""

        variance = 0.0

        def sample(self, n: int) -> NDArray[np.int64]:
            return np.zeros(n, np.int64)

    monkeypatch.setattr("tactful.experiments.controller.noise_of", lambda epsilon: Silence())
    store.apply(private(), by="ann", reason="r")
    made: list[Entry] = []
    for hour in range(6):  # the same people come again, and others join them
        for entry in history_of(PEOPLE[: 300 + 100 * hour], 0.3, 0.3):
            assert isinstance(entry, Event)
            changes: dict[str, Any] = {"timestamp": entry.timestamp + hour * HOUR}
            for name in ("event_id", "recommendation_id"):
                changes[name] = f"{getattr(entry, name)}:{hour}"
            made.append(msgspec.structs.replace(entry, **changes))
    log = write_log(tmp_path / "log", made)
    seen = 0
    for _ in range(7):
        clock.at += HOUR + 60_000
        keeper = RolloutController(store, lambda: [log], every_ms=60_000, clock=clock)  # a restart
        (look,) = keeper.run()
        assert keeper.run() == []
        assert look.released is not None
        seen += sum(map(sum, look.released.values()))
    assert seen == 800


@pytest.mark.parametrize(
    ("metric", "told"), [("errors", {"failed": True}), ("anomalies", {"scores": [0.5, 0.5]})]
)
def test_a_model_that_fails_or_orders_nothing_is_rolled_back(
    store: RolloutStore, clock: Clock, tmp_path: Path, metric: str, told: dict[str, Any]
) -> None:
    guard = GuardrailDefinition(metric=metric, minimum_units=100)
    store.apply(definition(guardrails=(guard,)), by="ann", reason="r")
    sound = history_of(PEOPLE, 0.3, 0.3)

    def with_told(entry: Entry, number: int) -> Entry:
        assert isinstance(entry, Event)
        rollouts = entry.properties.get("rollouts")
        if number % 5 or rollouts != [f"cheaper:{CHANGE}"]:
            return entry
        return msgspec.structs.replace(entry, properties={**entry.properties, **told})

    keeper = keeper_of(store, tmp_path / "sound", sound, clock)
    clock.at += 2 * HOUR - 1
    (look,) = keeper.run()
    assert look.guardrails[metric] in ("undecided", "no harm")  # and no "too few data" for ever
    broken = [with_told(entry, number) for number, entry in enumerate(sound)]
    keeper = keeper_of(store, tmp_path / "broken", broken, clock)
    clock.at += 60_000
    (look,) = keeper.run()
    assert (look.guardrails, look.state) == ({metric: "harm"}, "rolled back")
