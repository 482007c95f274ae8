from dataclasses import replace

import pytest
from scipy import stats

from tactful_bandits.assignment.assign import Arm, Experiment, assign, assign_all
from tactful_bandits.assignment.definitions import load_experiments
from tactful_bandits.assignment.eligibility import Holdout, Namespace, Prerequisite
from tactful_bandits.errors import AssignmentError, DefinitionError

HALVES = (Arm("control", 0.5), Arm("treatment", 0.5))
USERS = [f"user-{number}" for number in range(5000)]
EXPERIMENT = Experiment("layout", HALVES)


def test_a_holdout_is_spared_by_every_experiment_and_only_grows() -> None:
    small, large = Holdout("all", 0.02), Holdout("all", 0.1)
    spared = {user for user in USERS if large.holds(user)}
    assert stats.binomtest(len(spared), len(USERS), 0.1).pvalue > 1e-4  # fixed ids, one answer
    assert {user for user in USERS if small.holds(user)} < spared
    for key in ("a", "b"):
        experiment = Experiment(key, HALVES, holdout=large)
        assert {user for user in USERS if assign(experiment, user).arm is None} == spared
        assert all(assign(experiment, user, sticky="control").arm is None for user in spared)
        forced = assign(experiment, next(iter(spared)), forced="treatment")
        assert (forced.arm, forced.randomised) == ("treatment", False)


def test_a_condition_lets_in_who_fulfils_it_and_moves_nobody() -> None:
    adults = replace(EXPERIMENT, condition={"age": {"$gte": 18}})
    for user in USERS[:200]:
        assert assign(adults, user, attributes={"age": 20}) == assign(EXPERIMENT, user)
        assert assign(adults, user, attributes={"age": 17}).arm is None
        assert assign(adults, user).arm is None
    group = replace(EXPERIMENT, condition={"id": {"$inGroup": "beta"}})
    assert assign(group, "a", attributes={"id": 7}, groups={"beta": [7]}).arm is not None
    assert assign(group, "a", attributes={"id": 8}, groups={"beta": [7]}).arm is None


def test_prerequisites_are_assigned_first_whatever_the_order() -> None:
    base = Experiment("base", HALVES)
    follow_up = Experiment("next", HALVES, prerequisites=(Prerequisite("base", ("treatment",)),))
    third = Experiment("third", HALVES, prerequisites=(Prerequisite("next", ("control",)),))
    for user in USERS[:300]:
        got = assign_all([third, follow_up, base], user)
        assert list(got) == ["third", "next", "base"]
        assert got["base"] == assign(base, user)
        assert got["next"].randomised == (got["base"].arm == "treatment")
        assert got["third"].randomised == (got["next"].arm == "control")
    assert assign_all([follow_up], "a")["next"].arm is None
    one, two = (
        Experiment(key, HALVES, prerequisites=(Prerequisite(other, ("control",)),))
        for key, other in (("one", "two"), ("two", "one"))
    )
    with pytest.raises(AssignmentError, match=r"circle among \['one', 'two'\]"):
        assign_all([one, two], "a")


def test_a_sticky_arm_outlives_every_change_but_its_own_end() -> None:
    user = next(user for user in USERS if assign(EXPERIMENT, user).arm == "treatment")
    changed = [
        replace(EXPERIMENT, coverage=0),
        replace(EXPERIMENT, arms=(Arm("control", 1.0), Arm("treatment", 0.0))),
        replace(EXPERIMENT, condition={"never": 1}),
        replace(EXPERIMENT, namespace=Namespace("page", 0, 0.0001)),
        replace(EXPERIMENT, prerequisites=(Prerequisite("other", ("x",)),)),
    ]
    for experiment in changed:
        got = assign(experiment, user, sticky="treatment")
        assert (got.arm, got.kept, got.randomised) == ("treatment", True, True)
    # Where today's draw would be another, its probability is not known.
    assert assign(changed[1], user, sticky="treatment").propensity is None
    assert assign(EXPERIMENT, user, sticky="treatment").propensity == 0.5
    assert assign(replace(EXPERIMENT, status="stopped"), user, sticky="treatment").arm is None
    renamed = replace(EXPERIMENT, arms=(Arm("control", 0.5), Arm("other", 0.5)))
    got = assign(renamed, user, sticky="treatment")
    assert (got.arm, got.kept) == ("other", False)
    assert assign_all([EXPERIMENT], user, sticky={"layout": "control"})["layout"].arm == "control"


TEXT = """
- key: base
  arms: [{name: control}, {name: treatment}]
- key: next
  arms: [{name: control}, {name: treatment}]
  condition: {country: {$in: [CH, AT]}}
  holdout: {name: everything, share: 0.02}
  prerequisites: [{experiment: base, arms: [treatment]}]
"""


def test_they_are_read_from_yaml() -> None:
    _, experiment = load_experiments(TEXT)
    assert experiment.condition == {"country": {"$in": ["CH", "AT"]}}
    assert experiment.holdout == Holdout("everything", 0.02)
    assert experiment.prerequisites == (Prerequisite("base", ("treatment",)),)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("$in: [CH, AT]", "$inn: [CH]", r"\[1\]: .*condition\.country\.\$inn: unknown"),
        ("share: 0.02", "share: 1", r"experiments:7: \[1\]\.holdout: .*between 0 and 1, not 1"),
        ("share: 0.02", "part: 0.02", "unknown field; expected one of name, share"),
        ("experiment: base", "experiment: bas", r"experiments:8: .*no experiment 'bas'"),
        ("[treatment]}", "[winner]}", r"'base' has no arms \['winner'\]"),
        ("[treatment]}", "[]}", "name at least one arm"),
        ("experiment: base", "experiment: next", "its own prerequisite"),
    ],
)
def test_errors_name_line_and_place(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(DefinitionError, match=message):
        load_experiments(TEXT.replace(old, new))


def test_a_circle_is_refused_when_read() -> None:
    text = TEXT.replace(
        "- key: next", "  prerequisites: [{experiment: next, arms: [control]}]\n- key: next"
    )
    with pytest.raises(DefinitionError, match="needs itself through its prerequisites"):
        load_experiments(text)
