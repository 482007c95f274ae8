from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_bandits.assignment.definitions import load_experiments
from tactful_bandits.assignment.eligibility import Namespace
from tactful_bandits.errors import DefinitionError

TEXT = """\
- key: ranking-model
  arms:
    - {name: champion, weight: 0.9}
    - {name: challenger, weight: 0.1}
- key: layout
  arms: [{name: list}, {name: grid}, {name: 卡片}]
  coverage: 0.2
  seed: layout-2
  namespace: {name: page, start: 0.0, end: 0.5}
  status: draft
"""

EXPERIMENTS = (
    Experiment("ranking-model", (Arm("champion", 0.9), Arm("challenger", 0.1))),
    Experiment(
        "layout",
        (Arm("list", 1 / 3), Arm("grid", 1 / 3), Arm("卡片", 1 / 3)),
        coverage=0.2,
        seed="layout-2",
        namespace=Namespace("page", 0.0, 0.5),
        status="draft",
    ),
)


def test_text_file_and_plain_objects_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "experiments.yaml"
    path.write_text(TEXT, encoding="utf-8")
    assert load_experiments(TEXT) == EXPERIMENTS
    assert load_experiments(path) == EXPERIMENTS
    assert load_experiments(yaml.safe_load(TEXT)) == EXPERIMENTS
    assert load_experiments("[]") == ()


HALVES = "arms: [{name: a}, {name: b}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "experiments: expected a list of experiments, not nothing"),
        ("key: x", "experiments:1: expected a list of experiments, not dict"),
        ("- 3", "experiments:1: [0]: expected a mapping, not int"),
        ("- key: x", "experiments:1: [0]: field 'arms' is missing"),
        (f"- key: x\n  {HALVES}\n  coverge: 1", "experiments:3: [0].coverge: unknown field"),
        (f"- key: x\n  {HALVES}\n  key: y", "experiments:3: field 'key' is written twice"),
        ("- key: x\n  arms: 2", "experiments:2: [0].arms: expected a list of arms, not int"),
        (
            "- key: x\n  arms:\n  - name: a\n  - name: b\n    weight: 0.5",
            "experiments:2: [0].arms: give every arm a weight, or none",
        ),
        (
            "- key: x\n  arms:\n  - name: a\n    weight: 0.5\n  - name: b\n    weight: half",
            "experiments:5: [0].arms[1]: arm 'b': weight must be a number from 0 to 1, not 'half'",
        ),
        (
            "- key: x\n  arms:\n  - name: 'off'\n  - name: on",
            "experiments:4: [0].arms[1]: arm name must be text, not True; quote it",
        ),
        (
            f"- key: x\n  {HALVES}\n  namespace: {{name: n, start: 0.6, end: 0.5}}",
            "experiments:3: [0].namespace: namespace 'n': start 0.6 must be below end 0.5",
        ),
        (f"- key: x\n  {HALVES}\n- key: x\n  {HALVES}", "experiments:3: [1]: key 'x' is taken"),
        (
            f"- key: x\n  {HALVES}\n- key: y\n  seed: x\n  {HALVES}",
            "experiments:3: [1]: experiments 'x' and 'y' run with the same seed",
        ),
        (
            f"- key: x\n  {HALVES}\n  namespace: {{name: n, start: 0, end: 0.6}}\n"
            f"- key: y\n  {HALVES}\n  namespace: {{name: n, start: 0.5, end: 1}}",
            "experiments:4: [1]: experiments 'x' and 'y' run in overlapping slices of namespace",
        ),
        ("- key: [", "experiments:1: not valid YAML"),
        ("- key: \0", "experiments: not valid YAML"),
        ("- ? [a]\n  : b", "experiments:1: a field name must be plain text"),
        ("- &a [*a]", "experiments:1: aliases are not supported"),
        ("- key: !!python/name:os.system x", "experiments:1: not valid YAML"),
        ("- key: 2026-99-01", "experiments:1: cannot read '2026-99-01'"),
        ("-\n  key: !!bool maybe", "experiments:2: cannot read 'maybe'"),
        ("- key: !!timestamp noon", "experiments:1: cannot read 'noon'"),
        ("[" * 1000 + "]" * 1000, "experiments: nested too deep"),
    ],
)
def test_errors_name_line_and_place(text: str, message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        load_experiments(text)
    assert str(caught.value).startswith(message)


def test_errors_name_the_file_or_the_name_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- key: x", encoding="utf-8")
    with pytest.raises(DefinitionError, match=r"mine\.yaml:1: \[0\]: field 'arms' is missing"):
        load_experiments(path)
    with pytest.raises(DefinitionError, match=r"^request: \[0\]: field 'arms' is missing"):
        load_experiments([{"key": "x"}], name="request")


def test_a_stopped_experiment_frees_its_slice_and_its_seed() -> None:
    text = f"""\
- {{key: x, {HALVES}, namespace: {{name: n, start: 0, end: 1}}, status: stopped}}
- {{key: y, {HALVES}, namespace: {{name: n, start: 0, end: 0.5}}, seed: x}}
- {{key: z, {HALVES}, namespace: {{name: n, start: 0.5, end: 1}}, seed: x}}
"""
    assert [experiment.key for experiment in load_experiments(text)] == ["x", "y", "z"]


@given(st.text() | st.text("-[]{}:, \n&*!'\"#|>a1.", max_size=40))
def test_no_text_fails_in_another_way(text: str) -> None:
    try:
        load_experiments(text)
    except DefinitionError as error:
        assert str(error).startswith("experiments")


plain = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["key", "arms", "name", "weight", "seed"]), inner)
    ),
    max_leaves=12,
)


@given(st.lists(plain, max_size=3))
def test_no_structure_fails_in_another_way(data: list[object]) -> None:
    try:
        load_experiments(data)
    except DefinitionError as error:
        assert str(error).startswith("experiments")


def test_an_arm_carries_parameters_for_whoever_runs_it() -> None:
    text = """
- key: recall
  arms:
    - {name: a, weight: 0.5}
    - {name: b, weight: 0.5, parameters: {quotas: {vectors: 3}}}
"""
    (experiment,) = load_experiments(text)
    assert [arm.parameters for arm in experiment.arms] == [{}, {"quotas": {"vectors": 3}}]
    assert hash(experiment)
    with pytest.raises(DefinitionError, match=r"arms\[1\]\.parameters.*expected a mapping"):
        load_experiments(text.replace("{quotas: {vectors: 3}}", "[1]"))
