"""Read-outs say what an independent computation says, and released ones cost nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy import stats
from tests.platform.experiments.test_rollouts import (
    PEOPLE,
    definition,
    event,
    history_of,
    keeper_of,
    private,
    stored_in,
)
from tests.platform.shop import BEGIN, DAY, HOUR, Clock, write_log
from tests.platform.support import small_settings

from tactful.cli.main import main
from tactful.config.privacy import ConsentSettings
from tactful.errors import ConfigError
from tactful.experiments.baseline import ExactOutcomes
from tactful.experiments.definitions import (
    CHANGE,
    CONTROL,
    GuardrailDefinition,
    experiment_at,
)
from tactful.experiments.effects import guardrail_points
from tactful.experiments.messages import move
from tactful.experiments.stage_readout import ReadOuts, controlled_stages
from tactful.experiments.store import RolloutStore
from tactful.metadata.store import MetadataStore, open_metadata
from tactful.models.rollout_effects import figures_of, recorded_effects
from tactful.schemas.experiments.readouts import Effect, ReadOutMessage
from tactful_bandits.analysis.samples import Proportion
from tactful_bandits.analysis.skewed_means import SkewedMean, common_cap
from tactful_bandits.assignment.assign import assign
from tactful_privacy.mechanisms.laplace import DiscreteLaplace
from tactful_streaming.contract.log_entries import Entry


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(sqlite: MetadataStore, clock: Clock) -> RolloutStore:
    return RolloutStore(sqlite, clock=clock)


@contextlib.contextmanager
def reading(store: RolloutStore, clock: Clock, path: Path, made: list[Entry]) -> Iterator[ReadOuts]:
    with contextlib.closing(write_log(path, made)) as log:
        yield ReadOuts(store, ExactOutcomes(lambda: [log]), clock=clock)


def many_lists(people: int) -> tuple[list[Entry], dict[str, dict[str, np.ndarray[Any, Any]]]]:
    """Return a log of three hours, and by arm and hour what each person was shown and did."""
    rng = np.random.default_rng(3)
    experiment = experiment_at("cheaper", 0.5)
    made: list[Entry] = []
    arms: dict[str, list[list[tuple[int, int, float]]]] = {CONTROL: [], CHANGE: []}
    for number in range(people):
        person, rows = f"p{number}", []
        arm = assign(experiment, person).arm or CONTROL
        for hour in range(3):
            shown, took, spent = int(rng.integers(0, 3)), 0, 0.0
            for place in range(shown):
                identity, at = f"{person}-{hour}-{place}", BEGIN + hour * HOUR + 10_000 + place
                about: dict[str, Any] = {"event_id": f"impression:{identity}"}
                about["recommendation_id"] = identity
                properties = {"items": ["i1"], "rollouts": [f"cheaper:{arm}"]}
                made.append(event("impression", person, at, properties=properties, **about))
                if rng.random() < (0.2 if arm == CONTROL else 0.3):
                    took += 1
                    price = float(rng.lognormal(1, 1))
                    spent += price
                    about["event_id"] = f"{identity}-bought"
                    bought = {"item_id": "i1", "properties": {"price": price}}
                    made.append(event("purchase", person, at + 1_000, **about, **bought))
            rows.append((shown, took, spent))
        arms[arm].append(rows)
    made.sort(key=lambda entry: getattr(entry, "timestamp", 0))
    columns = {arm: np.array(rows, np.float64) for arm, rows in arms.items()}
    return made, {
        arm: {name: table[:, :, place] for place, name in enumerate(("shown", "took", "spent"))}
        for arm, table in columns.items()
    }


def by_metric(found: ReadOutMessage) -> dict[str, Effect]:
    return {effect.metric: effect for effect in found.effects}


def test_effects_agree_with_an_independent_computation(
    store: RolloutStore, clock: Clock, tmp_path: Path
) -> None:
    store.apply(definition(), by="ann", reason="r")
    made, truth = many_lists(600)
    clock.at = BEGIN + DAY
    with reading(store, clock, tmp_path / "log", made) as read_outs:
        found = read_outs.of_rollout(stored_in(store), exact=True)
    effects = by_metric(found)
    took = {arm: table["took"].sum(axis=1) for arm, table in truth.items()}
    shown = {arm: table["shown"].sum(axis=1) for arm, table in truth.items()}
    seen = {arm: shown[arm] > 0 for arm in shown}

    takers = [(took[arm][seen[arm]] > 0).astype(float) for arm in (CONTROL, CHANGE)]
    difference = takers[1].mean() - takers[0].mean()
    effect = effects["takers"]
    assert effect.difference == pytest.approx(difference)
    assert effect.control.value == pytest.approx(takers[0].mean())
    assert (effect.control.people, effect.treatment.people) == tuple(map(len, takers))
    error = np.sqrt(sum(arm.var() / len(arm) for arm in takers))
    welch = stats.ttest_ind(takers[1], takers[0], equal_var=False).confidence_interval(0.95)
    assert effect.fixed.low == pytest.approx(welch.low, rel=0.02, abs=1e-3)
    assert effect.fixed.high == pytest.approx(welch.high, rel=0.02, abs=1e-3)
    assert effect.anytime.low is not None and effect.fixed.low is not None
    assert effect.anytime.low < effect.fixed.low

    drawn = np.random.default_rng(1).normal(difference, error, 400_000)
    assert effect.chance_to_win == pytest.approx((drawn > 0).mean(), abs=0.005)
    assert effect.loss_of_treatment == pytest.approx(np.maximum(-drawn, 0).mean(), abs=2e-4)
    assert effect.loss_of_control == pytest.approx(np.maximum(drawn, 0).mean(), abs=2e-4)

    lists = effects["taken_lists"]
    ratios = {arm: took[arm].sum() / shown[arm].sum() for arm in took}
    assert lists.difference == pytest.approx(ratios[CHANGE] - ratios[CONTROL])
    variance = 0.0
    for arm, ratio in ratios.items():
        residual = (took[arm] - ratio * shown[arm])[seen[arm]]
        n = seen[arm].sum()
        variance += residual.var(ddof=1) / shown[arm][seen[arm]].mean() ** 2 / n
    assert lists.fixed.high is not None
    assert lists.fixed.high - lists.difference == pytest.approx(1.965 * variance**0.5, rel=0.01)

    spent = effects["revenue"]
    assert spent.cap is not None
    means = [
        np.minimum(truth[arm]["spent"].sum(axis=1)[seen[arm]], spent.cap).mean()
        for arm in (CONTROL, CHANGE)
    ]
    assert spent.difference == pytest.approx(means[1] - means[0])
    assert found.sample_ratio.verdict == "ok"
    assert found.sample_ratio.people == {arm: int(seen[arm].sum()) for arm in seen}
    assert found.sample_ratio.p == pytest.approx(stats.chisquare([*map(len, takers)]).pvalue)


def test_the_series_is_what_was_known_at_each_time(
    store: RolloutStore, clock: Clock, tmp_path: Path
) -> None:
    store.apply(definition(), by="ann", reason="r")
    made, truth = many_lists(400)
    clock.at = BEGIN + DAY
    with reading(store, clock, tmp_path / "log", made) as read_outs:
        found = read_outs.of_rollout(stored_in(store), exact=True)
    points = [point for point in found.series if point.metric == "takers"]
    assert len(points) == 3
    for hour, point in enumerate(points):
        values = []
        for arm in (CONTROL, CHANGE):
            shown = truth[arm]["shown"][:, : hour + 1].sum(axis=1)
            took = truth[arm]["took"][:, : hour + 1].sum(axis=1)
            values.append((took[shown > 0] > 0).mean())
        assert point.difference == pytest.approx(values[1] - values[0])
        assert BEGIN + (hour + 1) * HOUR <= point.at <= clock.at
    assert points[-1].anytime == by_metric(found)["takers"].anytime
    guards = [point for point in found.guardrails if point.metric == "takers"]
    assert [point.at for point in guards] == [point.at for point in points]


@pytest.mark.parametrize("took", [2_500, 3_900, 4_180, 4_900])
def test_a_loss_above_the_margin_is_harm(took: int) -> None:
    guard = GuardrailDefinition(metric="takers", margin=0.05)
    plan = definition(guardrails=(guard,)).plan()
    pair = Proportion(20_000, 4_400), Proportion(20_000, took)
    (point,) = guardrail_points(7, plan, {"takers": pair})
    assert point.loss is not None and point.loss.low is not None and point.loss.high is not None
    assert point.loss.low < 1 - took / 4_400 < point.loss.high
    assert (point.verdict == "harm") == (point.loss.low > point.margin == 0.05)
    assert (point.verdict == "no harm") == (point.loss.high < point.margin)


def test_the_loss_of_revenue_is_a_share_of_the_capped_mean() -> None:
    """All amounts fall by a half, and the interval of the loss holds that of the capped mean."""
    rng = np.random.default_rng(9)
    spent = np.where(rng.random(40_000) < 0.3, rng.lognormal(2, 1.5, 40_000), 0.0)
    plan = definition(
        guardrails=(
            GuardrailDefinition(metric="revenue", margin=0.1),
            GuardrailDefinition(metric="takers"),
        )
    ).plan()
    pair = SkewedMean.from_units(spent[::2]), SkewedMean.from_units(spent[1::2] / 2)
    takers = Proportion(20_000, 6_000), Proportion(20_000, 6_000)
    points = guardrail_points(7, plan, {"revenue": pair, "takers": takers})
    (loss,) = (point.loss for point in points if point.metric == "revenue")
    assert loss is not None and loss.low is not None and loss.high is not None
    # Amounts above the cap stay there, so the capped mean falls by less than a half.
    cap = common_cap(*pair)
    means = [np.minimum(amounts, cap).mean() for amounts in (spent[::2], spent[1::2] / 2)]
    assert loss.low < 1 - means[1] / means[0] < loss.high
    assert loss.high < 0.7


def test_released_read_outs_use_released_counts_and_their_noise(
    store: RolloutStore, clock: Clock, tmp_path: Path
) -> None:
    store.apply(private(), by="ann", reason="r")
    keeper = keeper_of(store, tmp_path / "log", history_of(PEOPLE, 0.3, 0.3), clock)
    clock.at += HOUR + 10_000
    (look,) = keeper.run()
    assert look.released is not None
    refused = ReadOuts(store, ExactOutcomes(lambda: pytest.fail("the log was read")), clock=clock)
    found = refused.of_rollout(stored_in(store), exact=False)
    (effect,) = found.effects
    noise = float(DiscreteLaplace(1, "1").variance)
    shares, variance = [], 0.0
    for arm in (CONTROL, CHANGE):
        took, others = look.released[arm]
        n = took + others
        share = took / n
        shares.append(share)
        variance += share * (1 - share) / n
        variance += ((1 - share) ** 2 + share**2) * noise / n**2
    assert effect.difference == pytest.approx(shares[1] - shares[0])
    assert effect.fixed.high is not None
    assert effect.fixed.high - effect.difference == pytest.approx(1.96 * variance**0.5, rel=2e-3)
    assert (found.source, found.epsilon, found.stage) == ("released", 1.0, 0)
    assert found.sample_ratio.people == {arm: sum(look.released[arm]) for arm in look.released}
    assert len(found.series) == len(found.guardrails) == 1


def test_exact_rollouts_release_nothing(store: RolloutStore, clock: Clock) -> None:
    store.apply(definition(), by="ann", reason="r")
    found = ReadOuts(store, ExactOutcomes(list), clock=clock).of_rollout(
        stored_in(store), exact=False
    )
    assert (found.effects, found.series, found.sample_ratio.people) == ([], [], {})
    assert "has no released numbers" in found.reason


def test_a_held_rollout_stays_and_begins_its_stage_again(store: RolloutStore, clock: Clock) -> None:
    store.apply(definition(stages=(0.1, 0.5, 1.0)), by="ann", reason="r")
    began = clock.at
    clock.at += HOUR
    held = move(store, "cheaper", "hold", by="eve", reason="a sale begins")
    assert (held.rollout.state, held.rollout.share) == ("held", 0.1)
    assert store.changes("cheaper")[-1].changed_by == "eve"
    assert store.changes("cheaper")[-1].reason == "a sale begins"
    with pytest.raises(ConfigError, match="it is held, not canary"):
        move(store, "cheaper", "hold", by="eve", reason="again")
    (span,) = controlled_stages(held.rollout)
    assert (span.stage, span.since, span.until) == (0, began, None)
    clock.at += HOUR
    resumed = move(store, "cheaper", "advance", by="eve", reason="it is over")
    (span,) = controlled_stages(resumed.rollout)
    assert (span.stage, span.share, span.since) == (0, 0.1, clock.at)
    clock.at += HOUR
    ended = move(store, "cheaper", "rollback", by="eve", reason="odd")
    (span,) = controlled_stages(ended.rollout)
    assert span.until == clock.at


def test_a_held_rollout_does_not_advance(store: RolloutStore, clock: Clock, tmp_path: Path) -> None:
    store.apply(definition(), by="ann", reason="r")
    keeper = keeper_of(store, tmp_path / "log", history_of(PEOPLE, 0.3, 0.3), clock)
    move(store, "cheaper", "hold", by="eve", reason="a sale begins")
    clock.at += 10 * HOUR
    (look,) = keeper.run()
    assert look.state == "held"
    assert stored_in(store).rollout.stage == 0


def test_wrong_stages_are_refused(store: RolloutStore, clock: Clock) -> None:
    store.apply(definition(start=False), by="ann", reason="r")
    read_outs = ReadOuts(store, ExactOutcomes(list), clock=clock)
    assert "no stage" in read_outs.of_rollout(stored_in(store), exact=True).reason
    with pytest.raises(ConfigError, match="there are none"):
        read_outs.of_rollout(stored_in(store), exact=True, stage=0)


def test_the_command_and_the_record_say_the_same(tmp_path: Path, clock: Clock) -> None:
    data = tmp_path / "data"
    data.mkdir()
    made, _ = many_lists(300)
    with contextlib.closing(open_metadata(data / "metadata.db")) as metadata:
        store = RolloutStore(metadata, clock=clock)
        store.apply(definition(), by="ann", reason="r")
        write_log(data / "log", made).close()
        environment = {"TACTFUL_STORAGE__DATA": str(data), "TACTFUL_CONSENT__DEFAULT": "assume"}

        def run(*arguments: str) -> Result:
            return CliRunner().invoke(main, ["experiment", "readout", *arguments], env=environment)

        told = run("cheaper", "--json")
        assert told.exit_code == 0, told.output
        found = msgspec.json.decode(told.stdout, type=ReadOutMessage)
        effect = by_metric(found)["takers"]
        assert (found.source, found.stage, effect.treatment.arm) == ("exact", 0, "change")
        words = run("cheaper").stdout
        for expected in ("sample ratio: ok", "takers: share of people", "chance to win"):
            assert expected in words
        settings = replace(small_settings(tmp_path), consent=ConsentSettings(default="assume"))
        figures = figures_of(recorded_effects(settings, store, stored_in(store)))
        assert figures["takers.difference"] == effect.difference
        assert figures["takers.anytime_low"] == effect.anytime.low
        assert {name.partition(".")[0] for name in figures} == {*by_metric(found)}
        assert "no released numbers" in run("cheaper", "--source", "released").stdout
        wrong = run("nothing")
        assert wrong.exit_code == 2 and "there are cheaper, ranking" in wrong.stderr
        assert run("cheaper", "--stage", "4").exit_code == 2
        assert "too few data" in run("ranking").stdout
        assert "nobody is held out" in run("permanent-holdout").stdout
