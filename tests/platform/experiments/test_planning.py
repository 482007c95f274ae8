"""A plan that would find no harm is refused, and a rollout that does not go on says why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from tests.platform.shop import BEGIN, HOUR, Clock, write_log
from tests.platform.support import Live, build, small_settings, wait_until

from tactful.cli.main import main
from tactful.client.sync import Client
from tactful.config.recommendation import RecommendSettings
from tactful.errors import ApiError, ConfigError
from tactful.experiments.baseline import DAY_MS, ExactOutcomes, assumed_baseline, exact_baseline
from tactful.experiments.controller import NO_MODEL, RolloutController, apply_file
from tactful.experiments.definitions import GuardrailDefinition, RolloutDefinition
from tactful.experiments.messages import details, move
from tactful.experiments.planning import Given, Planner
from tactful.experiments.store import Judged, RolloutStore, StoredRollout
from tactful.experiments.tally import Tally, read_on
from tactful.metadata.store import MetadataStore
from tactful.server.platform import Platform
from tactful.util.clock import now_ms
from tactful_bandits.analysis.samples import Proportion
from tactful_bandits.errors import StatisticsError
from tactful_bandits.rollouts.lifecycle import Rollout, RolloutLook
from tactful_streaming.contract.log_entries import Entry, Event
from tactful_streaming.log.event_log import EventLog

CHANGE = {"objective": {"relevance": 1, "price": 0.3}}


def definition(**changes: Any) -> RolloutDefinition:
    return RolloutDefinition(**{"key": "cheaper", "change": CHANGE, **changes})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(sqlite: MetadataStore, clock: Clock) -> RolloutStore:
    return RolloutStore(sqlite, clock=clock)


def unread() -> Sequence[EventLog]:
    raise AssertionError("the log was read")


def planner_of(store: RolloutStore, clock: Clock, *logs: EventLog) -> Planner:
    return Planner(store, ExactOutcomes(lambda: logs), clock=clock)


def shown(days: int, people: int, every: int, begin: int = BEGIN) -> list[Entry]:
    """Each day other people see one recommendation; one in so many clicks on it."""
    made: list[Entry] = []
    for day in range(days):
        for number in range(people):
            person, at = f"p{day}-{number}", begin + day * DAY_MS + number * 60_000
            about: dict[str, Any] = {"user_id": person, "recommendation_id": person}
            made.append(
                Event(
                    type="impression",
                    timestamp=at,
                    event_id=f"impression:{person}",
                    properties={"items": ["i1"]},
                    **about,
                )
            )
            if number % every == 0:
                click: dict[str, Any] = {"type": "click", "item_id": "i1"}
                click["event_id"] = f"click:{person}"
                made.append(Event(timestamp=at + 1_000, **about, **click))
    return made


def stored_in(store: RolloutStore) -> StoredRollout:
    stored = store.find("cheaper")
    assert stored is not None
    return stored


def test_a_plan_of_low_power_is_refused(store: RolloutStore, clock: Clock) -> None:
    """3 % takers and 1,200 people a day: the default plan shipped a loss of 20 % every time."""
    planner = Planner(store, ExactOutcomes(unread), clock=clock)
    given = Given(1_200, 0.03)
    with pytest.raises(ConfigError, match=r"found with probability 0\.\d\d.*days are needed"):
        planner.apply(definition(start=True), by="ann", reason="r", given=given)
    assert store.all() == []
    accepted = definition(accept_low_power="a pilot in a small shop", start=True)
    changed, planned = planner.apply(accepted, by="ann", reason="r", given=given)
    assert changed and planned is not None
    assert not planned.enough and planned.days is not None and planned.days > 40
    applied = store.changes("cheaper")[0]
    assert applied.reason == "r; low power accepted: a pilot in a small shop"
    assert stored_in(store).rollout.plan.proof
    # The same definition is no reason to read anything.
    again = Planner(store, ExactOutcomes(unread), clock=clock)
    assert again.apply(accepted, by="ann", reason="r") == (False, None)
    longer = definition(key="longer", stage_hours=float(planned.stage_hours_needed or 0))
    assert planner.apply(longer, by="ann", reason="r", given=given)[0]


def test_the_last_28_days_are_the_baseline(
    store: RolloutStore, clock: Clock, tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log", shown(28, 40, 4))
    clock.at = BEGIN + 28 * DAY_MS
    known = exact_baseline(ExactOutcomes(lambda: [log]), [log], definition(), now=clock.at)
    assert known is not None
    assert known.people_per_day == pytest.approx(40)
    takers = known.samples["takers"]
    assert (takers.units, takers.value) == (28 * 40, 0.25)
    days = definition(stage_hours=7 * 24.0)
    week = exact_baseline(ExactOutcomes(lambda: [log]), [log], days, now=clock.at)
    assert week is not None and week.people_per_day == pytest.approx(40)
    planned = planner_of(store, clock, log).forecast(definition())
    assert planned.basis == "the recommendations of the last 28 days"
    assert not planned.enough and planned.guardrails[0].power is not None
    # A week later the first of the days lie before the span, and the last days are empty.
    clock.at += 7 * DAY_MS
    later = exact_baseline(ExactOutcomes(lambda: [log]), [log], definition(), now=clock.at)
    assert later is not None and later.people_per_day == pytest.approx(30)
    nobody = ExactOutcomes(lambda: [log], allows=lambda event: False)
    assert exact_baseline(nobody, [log], definition(), now=clock.at) is None
    log.close()


def test_a_long_log_counts_a_sample(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(tmp_path / "log", shown(28, 100, 4))
    clock.at = BEGIN + 28 * DAY_MS
    monkeypatch.setattr("tactful.experiments.baseline._MOST_USERS", 2_000)
    known = exact_baseline(ExactOutcomes(lambda: [log]), [log], definition(), now=clock.at)
    assert known is not None
    assert known.people_per_day == pytest.approx(100, rel=0.1)
    takers = known.samples["takers"]
    assert takers.units < 2_000 and takers.value == pytest.approx(0.25, abs=0.05)
    log.close()


def test_outcomes_of_a_second_partition_count(tmp_path: Path) -> None:
    """A partition that is read later is older than what was read: its outcomes were lost."""
    late = Event(
        type="impression",
        timestamp=BEGIN + 10 * HOUR,
        event_id="impression:late",
        user_id="late",
        recommendation_id="late",
        properties={"items": ["i1"], "rollouts": ["cheaper:control"]},
    )
    early = msgspec.structs.replace(
        late, timestamp=BEGIN, user_id="p", recommendation_id="p", event_id="impression:p"
    )
    about: dict[str, Any] = {"user_id": "p", "recommendation_id": "p", "item_id": "i1"}
    click = Event(type="click", timestamp=BEGIN + 60_000, event_id="click:p", **about)
    others = [
        msgspec.structs.replace(
            early, user_id=f"o{n}", recommendation_id=f"o{n}", event_id=f"impression:o{n}"
        )
        for n in range(2_100)
    ]
    tally = Tally("cheaper", since=BEGIN, types=("click",), lasts=HOUR)
    for name, made in (("first", [late]), ("second", [early, *others, click])):
        log = write_log(tmp_path / name, made)
        read_on(log, tally, log.begin)
        log.close()
    tally.close(BEGIN + 20 * HOUR)
    assert tally.outcomes().arms["control"]["p"].took == 1


def test_without_people_the_plan_asks_for_them(store: RolloutStore, clock: Clock) -> None:
    planner = planner_of(store, clock)
    with pytest.raises(ConfigError, match="nobody was counted in the last 28 days: give the"):
        planner.apply(definition(), by="ann", reason="r")
    planned = planner.forecast(definition(), Given(people_per_day=100_000))
    assert planned.enough and "assumed" in planned.basis and "100,000 people" in planned.basis
    guards = tuple(GuardrailDefinition(metric=it) for it in ("takers", "revenue", "errors"))
    planned = planner.forecast(definition(guardrails=guards), Given(100_000, 0.1))
    assert {it.metric for it in planned.guardrails} == {"takers", "revenue"}
    latency = definition(guardrails=(GuardrailDefinition(metric="latency"),))
    assert planner.forecast(latency, Given(100_000, 0.1)).guardrails[0].power is None


def test_plans_of_private_rollouts_read_released_counts_only(
    store: RolloutStore, clock: Clock
) -> None:
    """With epsilon a forecast reads no log, and costs nothing beyond the charged looks."""
    planner = Planner(store, ExactOutcomes(unread), clock=clock)
    private = definition(key="second", epsilon=1.0)
    assert "nobody was released" in planner.forecast(private).basis
    first = definition(epsilon=1.0, start=True, stages=(0.5, 1.0), accept_low_power="r")
    planner.apply(first, by="ann", reason="r")
    counts = {"control": (300, 700), "change": (290, 710)}

    def judge(rollout: Rollout, at: int) -> Judged:
        return Judged(RolloutLook(rollout, (), None), counts)

    for _ in range(4):
        clock.at += 6 * HOUR
        assert store.look(stored_in(store), judge, every_ms=0) is not None
    planned = planner.forecast(private)
    assert planned.basis == "the counts that looks have released in the last 28 days"
    (takers,) = planned.guardrails
    exact = planner.forecast(definition(key="exact"), Given(8_000, 0.3)).guardrails[0]
    assert takers.power is not None and exact.power is not None
    assert takers.power <= exact.power  # the noise lowers it
    clock.at += 29 * DAY_MS
    assert "nobody was released" in planner.forecast(private).basis


def test_begun_rollouts_keep_their_proof(store: RolloutStore, tmp_path: Path) -> None:
    """A definition of an earlier version, without proof, goes on when its file is read again."""
    old = definition(proof=False, start=True)
    store.apply(old, by="ann", reason="r")
    assert not store.apply(definition(start=True), by="ann", reason="r")
    assert not stored_in(store).rollout.plan.proof
    with pytest.raises(ConfigError, match="has begun"):
        store.apply(definition(start=True, alpha=0.01), by="ann", reason="r")
    text = msgspec.json.encode(definition()).decode()
    plain = json.loads(text)
    for name in ("accept_low_power", "proof"):
        del plain[name]
    assert msgspec.convert(plain, RolloutDefinition) == definition()


def test_start_is_the_same_in_a_definition_and_by_hand(store: RolloutStore) -> None:
    store.apply(definition(start=True), by="ann", reason="r")
    other = definition(key="other", change={"diversity": {"strength": 2}})
    store.apply(other, by="ann", reason="r")
    by_hand = move(store, "other", "start", by="ann", reason="now")
    assert by_hand.rollout.state == stored_in(store).rollout.state == "canary"
    actions = [[line.action for line in store.changes(key)] for key in ("cheaper", "other")]
    assert actions[0] == actions[1]
    third = definition(key="third", change={"quotas": {"trending": 5}})
    store.apply(third, by="ann", reason="r")
    assert move(store, "third", "shadow", by="ann", reason="r").rollout.state == "shadow"
    assert move(store, "third", "start", by="ann", reason="r").rollout.state == "canary"


def test_without_a_model_a_rollout_is_held(
    store: RolloutStore, clock: Clock, tmp_path: Path
) -> None:
    """It stayed at "too few data" for ever, as nobody is assigned."""
    store.apply(definition(start=True), by="ann", reason="r")
    log, models = write_log(tmp_path / "log", []), [False]
    controller = RolloutController(
        store, lambda: [log], every_ms=60_000, clock=clock, has_model=lambda: models[0]
    )
    clock.at += HOUR
    for _ in range(2):
        assert controller.run() == []
    stored = stored_in(store)
    assert (stored.rollout.state, stored.rollout.share) == ("held", 0.01)
    assert [line.reason for line in store.changes("cheaper")].count(NO_MODEL) == 1
    assert NO_MODEL in details(store, stored).reason
    models[0] = True
    move(store, "cheaper", "advance", by="ann", reason="trained")
    clock.at += HOUR
    (look,) = controller.run()
    assert look.state == "canary"
    (wait,) = look.waits
    assert (wait.reason, wait.people, wait.days) == ("too few data", 40_000, None)
    assert "none was counted" in details(store, stored_in(store)).reason
    log.close()


def test_a_rollout_that_cannot_be_judged_says_why(
    store: RolloutStore, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply(definition(start=True), by="ann", reason="r")
    log = write_log(tmp_path / "log", [])

    def controller() -> RolloutController:
        return RolloutController(store, lambda: [log], every_ms=60_000, clock=clock)

    def judge(*what: Any, **more: Any) -> Any:
        raise StatisticsError("a planted one")

    with monkeypatch.context() as patch:
        patch.setattr("tactful.experiments.controller.judge_rollout", judge)
        clock.at += HOUR
        for _ in range(3):  # also after restarts it is one entry
            assert controller().run() == []
    actions = [line.action for line in store.changes("cheaper")]
    assert actions.count("cannot be judged") == 1
    assert details(store, stored_in(store)).reason == "cannot be judged: a planted one"
    clock.at += HOUR
    assert len(controller().run()) == 1
    assert "planted" not in details(store, stored_in(store)).reason
    log.close()


def test_the_file_of_a_server_is_planned(
    store: RolloutStore, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A start applies what needs no forecast; the rest is refused or applied in the background."""
    file = tmp_path / "rollouts.yaml"
    file.write_text(
        "- {key: low, change: {objective: {price: 2}}}\n"
        "- {key: known, change: {objective: {price: 2}}, accept_low_power: a pilot}\n"
    )
    apply_file(store, file)
    assert [stored.key for stored in store.all()] == ["known"]
    planner_of(store, clock).apply_file(file)
    assert [stored.key for stored in store.all()] == ["known"]
    assert "rollout 'low' would not find a harmful change reliably" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("accept_low_power: ' '", "accept_low_power is empty"),
        ("accept_low_power: true", "Expected `str | null`"),
        ("guardrails: [{metric: takers, smallest_loss: 1}]", "Expected `float` < 1.0"),
    ],
)
def test_wrong_definitions_are_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "rollouts.yaml"
    file.write_text(f"- {{key: a, change: {{model: '1'}}, {text}}}\n")
    called = CliRunner().invoke(main, ["experiment", "plan", str(file), "--data", str(tmp_path)])
    assert called.exit_code and said in called.output


def test_commands_plan_and_apply(tmp_path: Path) -> None:
    """The public path: refused with the days, planned, accepted, started and archived."""
    file, data = tmp_path / "rollouts.yaml", ["--data", str(tmp_path / "data")]
    file.write_text("- {key: a, change: {objective: {price: 2}}, start: true}\n")
    (tmp_path / "data").mkdir(mode=0o700)
    few = ["--people-per-day", "1200", "--rate", "0.03", *data]

    def call(*words: str) -> tuple[int, str]:
        called = CliRunner().invoke(main, ["experiment", *words])
        return called.exit_code, called.output

    code, said = call("apply", str(file), *few)
    assert code and "days are needed" in said and "accept_low_power" in said
    code, said = call("plan", str(file), *few)
    assert code == 0 and said.startswith("a: low power\n"), said
    code, said = call("plan", str(file), "--json", *few)
    (planned,) = json.loads(said)
    assert planned["guardrails"][0]["power"] < 0.8 and planned["days_needed"] > planned["days"]
    many = ["--people-per-day", "200000", "--rate", "0.12", *data]
    code, said = call("apply", str(file), *many)
    assert code == 0 and "a: applied" in said and "probability 1.00" in said, said
    assert "canary" in call("list", *data)[1]
    call("rollback", "a", "--reason", "r", *data)
    code, said = call("archive", "a", "--reason", "over", *data)
    assert code == 0 and "rolled back and archived, 0.00% get it" in said, said
    shipped = ["--reason", "r", *data]
    file.write_text("- {key: b, change: {objective: {price: 2}}, start: true}\n")
    call("apply", str(file), *many)
    call("decide", "b", "--decision", "ship", *shipped)
    assert "archived, 0.00% get it" in call("archive", "b", *shipped)[1]
    code, said = call("plan", *data)
    assert code and "--rate and --change" in said


def test_a_command_reads_the_log_of_an_installation(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    write_log(data / "log", shown(27, 40, 4, now_ms() - 28 * DAY_MS)).close()
    file = tmp_path / "rollouts.yaml"
    file.write_text("- {key: a, change: {objective: {price: 2}}}\n")
    words = ["experiment", "plan", str(file), "--json", "--data", str(data)]
    called = CliRunner().invoke(main, words)
    assert called.exit_code == 0, called.output
    (planned,) = json.loads(called.output)
    assert planned["basis"] == "the recommendations of the last 28 days"
    assert planned["guardrails"][0]["power"] is not None
    # 40 people a day: the first stage alone takes 1,000 days for its 400 in 1 %.
    assert 1_000 < planned["days"] < 1_500


@pytest.mark.slow
def test_http_and_the_client_plan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = small_settings(tmp_path)
    file = tmp_path / "rollouts.yaml"
    file.write_text("- {key: low, change: {objective: {price: 2}}}\n")
    settings = replace(settings, recommend=RecommendSettings(look_minutes=0.01, rollouts=file))
    plain = {"key": "varied", "change": {"diversity": {"strength": 1}}}
    with Live(Platform.open(settings, build)) as live, Client(str(live.http.base_url)) as client:
        refused = live.http.post("/v1/experiments", json=plain)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
        assert "accept_low_power" in refused.text
        planned = client.plan_rollout(plain, people_per_day=1_200, rate=0.03)
        assert planned["enough"] is False and planned["stage_hours_needed"] > 24
        with pytest.raises(ApiError, match="would not find"):
            client.define_rollout(plain, people_per_day=1_200, rate=0.03)
        made = client.define_rollout(plain, people_per_day=200_000, rate=0.12)
        assert made["forecast"]["enough"] is True
        assert client.rollout("varied")["forecast"] is None
        wrong = live.http.post("/v1/experiments/plan?rate=2", json=plain)
        assert wrong.status_code == 400
        moved = live.http.post("/v1/experiments/varied/start", json={"reason": "now"})
        assert moved.json()["rollout"]["state"] in ("canary", "held")
        # Nothing is trained here.
        wait_until(lambda: client.rollout("varied")["rollout"]["state"] == "held")
        assert "no model is trained" in client.rollout("varied")["reason"]
    assert "rollout 'low' would not find a harmful change" in caplog.text  # in the background


def test_assumed_outcomes_are_those_given() -> None:
    assumed = assumed_baseline(0.1)
    takers = assumed.samples["takers"]
    assert isinstance(takers, Proportion) and takers.value == 0.1
    assert assumed.of("latency", 100) is None
    assert assumed.of("errors", 100) is None
