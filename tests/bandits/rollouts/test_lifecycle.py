import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_bandits.analysis.samples import Proportion
from tactful_bandits.errors import DefinitionError, LifecycleError
from tactful_bandits.rollouts.guardrails import Guardrail
from tactful_bandits.rollouts.lifecycle import (
    Rollout,
    StageObservations,
    decide_rollout,
    dump_rollout,
    judge_rollout,
    load_rollout,
    poolable_stages,
    resume_rollout,
    roll_back,
    start_canary,
    start_shadow,
)
from tactful_bandits.rollouts.plan import RolloutPlan

DAY = 86_400_000
PLAN = RolloutPlan("ranking", (Guardrail("ctr"), Guardrail("errors", "lower", critical=False)))


def canary(plan: RolloutPlan = PLAN, stage: int = 0) -> Rollout:
    rollout = start_canary(start_shadow(Rollout(plan), at=0, by="ann"), at=1, by="ann")
    for _ in range(stage):
        rollout = judge_rollout(rollout, seen(rollout), at=rollout.since + DAY).rollout
    assert rollout.stage == stage
    return rollout


def seen(
    rollout: Rollout, *, lift: float = 0.0, errors: float = 0.0, tilt: float = 1.0
) -> StageObservations:
    """What 100,000 users do, exactly as expected."""
    treated = round(100_000 * rollout.share * tilt)
    units = 100_000 - treated, treated

    def pair(rate: float, change: float) -> tuple[Proportion, Proportion]:
        control, treatment = units
        return (
            Proportion(control, round(control * rate)),
            Proportion(treatment, round(treatment * rate * (1 + change))),
        )

    if rollout.share in (0, 1):
        return StageObservations(units)
    return StageObservations(units, {"ctr": pair(0.12, lift), "errors": pair(0.12, errors)})


def test_a_harmless_change_reaches_everybody_stage_by_stage() -> None:
    rollout = canary()
    shares = [rollout.share]
    while rollout.state == "canary":
        early = judge_rollout(rollout, seen(rollout), at=rollout.since + DAY - 1)
        assert early.rollout == rollout
        rollout = judge_rollout(rollout, seen(rollout), at=rollout.since + DAY).rollout
        shares.append(rollout.share)
    assert shares == [0.01, 0.05, 0.1, 0.25, 0.5, 1, 1]
    assert (rollout.state, rollout.decision, rollout.active) == ("decided", "ship", False)
    assert [line.after for line in rollout.history] == ["shadow", *["canary"] * 6, "decided"]
    assert [line.by for line in rollout.history] == ["ann", "ann", *["system"] * 6]
    assert [line.share for line in rollout.history[1:]] == shares


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_harm_rolls_back_in_the_look_that_shows_it(stage: int) -> None:
    rollout = canary(stage=stage)
    got = judge_rollout(rollout, seen(rollout, lift=-0.2), at=rollout.since + 1)
    back, last = got.rollout, got.rollout.history[-1]
    assert (back.state, back.share, back.decision) == ("rolled back", 0, "keep")
    assert (last.reason, last.by) == ("harm: ctr", "system")
    with pytest.raises(LifecycleError, match="cannot be looked at: it is rolled back, not canary"):
        judge_rollout(got.rollout, seen(rollout), at=rollout.since + DAY)
    warned = judge_rollout(rollout, seen(rollout, errors=2.0), at=rollout.since + 1)
    assert warned.guardrails[1].verdict == "harm"
    assert warned.rollout == rollout, "what is not critical only warns"


def test_a_mismatch_holds_until_somebody_resumes() -> None:
    rollout = canary(stage=2)
    tilted = seen(rollout, tilt=0.9)
    held = judge_rollout(rollout, tilted, at=rollout.since + DAY)
    assert held.sample_ratio is not None
    assert held.sample_ratio.mismatch
    assert (held.rollout.state, held.rollout.share, held.rollout.active) == ("held", 0.1, True)
    later = rollout.since + 5 * DAY
    assert judge_rollout(held.rollout, seen(rollout), at=later).rollout == held.rollout
    with pytest.raises(LifecycleError, match="cannot be decided: it is held, not canary"):
        decide_rollout(held.rollout, "ship", at=later, by="ann", reason="hope")
    resumed = resume_rollout(held.rollout, at=later, by="bob", reason="a proxy dropped the canary")
    assert (resumed.state, resumed.stage, resumed.since) == ("canary", 2, later)
    # Harm still ends it, trusted or not: going back is the safe side.
    harmed = judge_rollout(held.rollout, seen(rollout, lift=-0.3), at=later)
    assert harmed.rollout.state == "rolled back"


def test_too_few_data_prolong_a_stage() -> None:
    rollout = canary()
    few = StageObservations(
        (990, 10), {name: (Proportion(990, 119), Proportion(10, 1)) for name in ("ctr", "errors")}
    )
    assert judge_rollout(rollout, few, at=rollout.since + 9 * DAY).rollout == rollout
    none = StageObservations((990, 0), {"ctr": None, "errors": None})
    got = judge_rollout(rollout, none, at=rollout.since + DAY)
    assert {look.verdict for look in got.guardrails} == {"too few data"}
    assert got.rollout.state in ("canary", "held")


def test_proof_is_waited_for_where_it_is_asked() -> None:
    guardrails = (Guardrail("ctr", margin=0.1, smallest_loss=0.1), PLAN.guardrails[1])
    rollout = canary(replace(PLAN, guardrails=guardrails, stages=(0.5, 1.0)))
    worse = judge_rollout(rollout, seen(rollout, lift=-0.09), at=rollout.since + DAY)
    assert worse.guardrails[0].verdict == "undecided"
    assert worse.rollout == rollout
    (wait,) = worse.waits
    assert (wait.metric, wait.reason) == ("ctr", "not proven")
    unproven = canary(replace(rollout.plan, proof=False))
    assert judge_rollout(unproven, seen(rollout, lift=-0.09), at=DAY + 1).rollout.share == 1
    same = judge_rollout(rollout, seen(rollout), at=rollout.since + DAY)
    assert same.rollout.share == 1


def test_a_partial_rollout_ends_inconclusively() -> None:
    """A plan whose last stage is below 100 % ends without a claim."""
    rollout = canary(replace(PLAN, stages=(0.5,)))
    ended = judge_rollout(rollout, seen(rollout), at=rollout.since + DAY).rollout
    assert (ended.state, ended.decision, ended.share) == ("decided", "inconclusive", 0)
    shipped = decide_rollout(rollout, "ship", at=5, by="ann", reason="clicks rose")
    assert (shipped.share, shipped.history[-1].reason) == (1, "clicks rose")


def test_stages_are_pooled_only_where_that_is_valid() -> None:
    assert poolable_stages(Rollout(PLAN)) == ()
    assert poolable_stages(canary(stage=3)) == (0, 1, 2, 3)
    assert poolable_stages(canary(stage=5)) == (0, 1, 2, 3, 4)
    assert poolable_stages(canary(replace(PLAN, stages=(0.1, 0.6, 1.0)), stage=1)) == (0,)
    rollout = canary(stage=2)
    held = judge_rollout(rollout, seen(rollout, tilt=0.9), at=rollout.since).rollout
    assert poolable_stages(held) == ()
    resumed = resume_rollout(held, at=held.history[-1].at, by="bob", reason="found")
    assert poolable_stages(resumed) == (2,)
    onwards = judge_rollout(resumed, seen(resumed), at=resumed.since + DAY).rollout
    assert poolable_stages(onwards) == (2, 3)


def test_the_way_is_one_way() -> None:
    draft = Rollout(PLAN)
    assert (draft.share, draft.active) == (0, False)
    with pytest.raises(LifecycleError, match="the rollout of 'ranking' cannot start its canary"):
        start_canary(draft, at=0, by="ann")
    shadow = start_shadow(draft, at=5, by="ann")
    assert (shadow.share, shadow.active) == (0, True)
    with pytest.raises(LifecycleError, match="the time 4 lies before its last transition, 5"):
        start_canary(shadow, at=4, by="ann")
    with pytest.raises(LifecycleError, match="give the author and the reason"):
        start_canary(shadow, at=6, by="")
    ended = roll_back(shadow, at=6, by="ann", reason="a better idea")
    calls: list[Callable[[], object]] = [
        lambda: start_shadow(ended, at=7, by="a"),
        lambda: start_canary(ended, at=7, by="a"),
        lambda: resume_rollout(ended, at=7, by="a", reason="b"),
        lambda: roll_back(ended, at=7, by="a", reason="b"),
        lambda: decide_rollout(ended, "ship", at=7, by="a", reason="b"),
    ]
    for call in calls:
        with pytest.raises(LifecycleError, match="it is rolled back"):
            call()


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["look", "harm", "tilt", "resume", "back", "ship"]), max_size=12))
def test_any_sequence_keeps_the_log_true(asked: list[str]) -> None:
    rollout = canary()
    for step in asked:
        at = rollout.history[-1].at + DAY
        before = rollout
        try:
            if step in ("look", "harm", "tilt"):
                what = seen(
                    rollout,
                    lift=-0.5 if step == "harm" else 0,
                    tilt=0.5 if step == "tilt" and rollout.share < 1 else 1,
                )
                rollout = judge_rollout(rollout, what, at=at).rollout
            elif step == "resume":
                rollout = resume_rollout(rollout, at=at, by="ann", reason="r")
            elif step == "back":
                rollout = roll_back(rollout, at=at, by="ann", reason="r")
            else:
                rollout = decide_rollout(rollout, "ship", at=at, by="ann", reason="r")
        except LifecycleError:
            assert rollout == before
        assert rollout.history[: len(before.history)] == before.history
        assert (rollout == before) == (rollout.history == before.history)
        last = rollout.history[-1]
        assert (last.after, last.share) == (rollout.state, rollout.share)
        assert load_rollout(json.loads(json.dumps(dump_rollout(rollout)))) == rollout
    chain = rollout.history
    assert all(a.after == b.before and a.at <= b.at for a, b in pairwise(chain))


@pytest.mark.slow
def test_a_harmless_ramp_is_seldom_rolled_back() -> None:
    rng = np.random.default_rng(21)
    plan = replace(PLAN, guardrails=(Guardrail("ctr"),), stages=(0.1, 0.5, 1.0))
    ended = []
    for _ in range(150):
        rollout = canary(plan)
        while rollout.active:
            totals = np.zeros((2, 2), dtype=int)
            for hour in range(1, 25):
                treated = rng.binomial(500, rollout.share)
                users = np.array([500 - treated, treated])
                totals += [users, rng.binomial(users, 0.12)]
                (control, treatment), clicks = totals.tolist()
                pair = (
                    (Proportion(control, clicks[0]), Proportion(treatment, clicks[1]))
                    if rollout.share < 1
                    else None
                )
                samples = {} if pair is None else {"ctr": pair}
                what = StageObservations((control, treatment), samples)
                after = judge_rollout(rollout, what, at=rollout.since + hour * DAY // 24).rollout
                if after != rollout:
                    break
            rollout = after
            if rollout.state == "held":
                break
        ended.append(rollout.decision)
    # At 5 %, more than 17 of 150 come less than once in five hundred seeds; one fixed seed.
    assert ended.count("keep") <= 17
    assert ended.count("ship") >= 130


def test_plans_that_cannot_work_are_refused() -> None:
    for options, message in (
        *(({"stages": it}, "must be shares that rise") for it in ((), (0.5, 0.5), (0.5, 1.5))),
        ({"guardrails": ()}, "without a critical guardrail"),
        ({"guardrails": (Guardrail("a"), Guardrail("a"))}, "two guardrails of one metric"),
        ({"stage_ms": -1}, "stage_ms"),
        ({"alpha": 0}, "alpha must be above 0"),
    ):
        with pytest.raises(DefinitionError, match=message):
            replace(PLAN, **options)  # type: ignore[arg-type]


def test_data_that_are_no_rollout_are_refused() -> None:
    plain = dump_rollout(canary())
    wrongs: list[object] = [{}, [], {**plain, "state": "flying"}, {**plain, "plan": {}}]
    wrongs += [{**plain, "stage": -1}, {**plain, "stage": 99}]
    for wrong in wrongs:
        with pytest.raises(LifecycleError, match="these data are no rollout"):
            load_rollout(wrong)
