import textwrap
from datetime import date
from pathlib import Path

import pytest

from tactful_bandits.assignment.assign import assign
from tactful_bandits.assignment.eligibility import Holdout
from tactful_bandits.assignment.hashing import bucket
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags import (
    FlagSet,
    compile_features,
    evaluate,
    evaluate_all,
    load_flags,
    reading,
)

EXAMPLE = textwrap.dedent(str(reading.__doc__).split("```yaml\n")[1].split("```")[0])
UNITS = [f"u-{number}" for number in range(2000)]


def flag(body: str, top: str = "") -> FlagSet:
    """A file with one boolean flag `f`."""
    return load_flags(
        textwrap.dedent(top) + "flags:\n  f:\n" + textwrap.indent(textwrap.dedent(body), "    ")
    )


def test_the_documented_example() -> None:
    flags = load_flags(EXAMPLE)
    assert sorted(flags.flags) == ["banner", "new-cart"]
    assert flags.stale(date(2027, 6, 30)) == ()
    assert flags.stale(date(2027, 7, 1)) == ("new-cart",)
    values = {
        unit: evaluate(flags.features, "new-cart", {"id": unit, "country": "CH"}) for unit in UNITS
    }
    held_out = Holdout("everything", 0.05)
    assert values["u-1"].source == ("default" if held_out.holds("u-1") else "force")
    drawn = [value for value in values.values() if value.in_experiment]
    assert 0.42 < len(drawn) / len(UNITS) < 0.53  # half of 95 %
    assert {value.arm for value in drawn} == {"on", "off"}
    for unit in UNITS:
        banner = evaluate(flags.features, "banner", {"id": unit, "country": "CH"})
        assert banner.value == "" or values[unit].value is True


def test_an_experiment_draws_as_assign_does() -> None:
    flags = flag(
        """
        default: off
        holdout: h
        rules:
          - when: {country: CH}
            experiment:
              key: e
              coverage: 0.7
              seed: s
              namespace: {name: n, start: 0.1, end: 0.9}
              arms: [{variant: off, weight: 0.2}, {variant: on, weight: 0.8, name: treated}]
        """,
        "holdouts: {h: {share: 0.1}}\n",
    )
    design = flags.experiments["e"].design
    holdout = Holdout("h", 0.1)
    arms = set()
    for unit in UNITS:
        attributes = {"id": unit, "country": "CH" if hash(unit) else ""}
        got = evaluate(flags.features, "f", attributes)
        expected = assign(design, unit, attributes=attributes)
        arm = None if holdout.holds(unit) else expected.arm
        assert got.arm == arm
        assert got.value is (arm == "treated")
        if arm is not None:
            assert got.bucket == expected.bucket
        arms.add(arm)
    assert arms == {None, "off", "treated"}


def test_a_share_reaches_the_units_below_it() -> None:
    flags = flag("{default: off, rules: [{serve: on, share: 0.3}]}")
    for unit in UNITS:
        got = evaluate(flags.features, "f", {"id": unit})
        assert got.value is (bucket("f", unit) < 0.3)
    assert evaluate(flags.features, "f", {}).value is False


def test_the_first_rule_that_applies_decides() -> None:
    flags = flag(
        """
        default: off
        rules:
          - {when: {country: CH}, serve: off}
          - {serve: on}
        """
    )
    assert evaluate(flags.features, "f", {"country": "CH"}).rule_id == "rule-1"
    assert evaluate(flags.features, "f", {}).rule_id == "rule-2"


def test_a_disabled_flag_serves_its_default() -> None:
    flags = flag("{default: off, enabled: false, rules: [{serve: on}]}")
    got = evaluate(flags.features, "f", {})
    assert (got.value, got.source) == (False, "off")
    assert compile_features(flags)["features"]["f"] == {"defaultValue": False, "off": True}


def test_only_running_experiments_are_compiled() -> None:
    for status, rules in (("draft", None), ("stopped", None), ("running", 1)):
        flags = flag(
            f"""
            default: off
            rules: [{{experiment: {{key: e, arms: [off, on], status: {status}}}}}]
            """
        )
        compiled = compile_features(flags)["features"]["f"]
        assert len(compiled.get("rules", [])) == (rules or 0)


def test_sticky_arms_survive_other_weights() -> None:
    body = """
        default: off
        rules:
          - experiment:
              {key: e, sticky: true, arms: [{variant: off, weight: %s}, {variant: on, weight: %s}]}
        """
    before, after = flag(body % (0.5, 0.5)), flag(body % (1, 0))
    for unit in UNITS[:200]:
        first = evaluate(before.features, "f", {"id": unit}, sticky={})
        assert first.sticky_save is not None
        document, name, arm = first.sticky_save
        kept = evaluate(after.features, "f", {"id": unit}, sticky={document: {name: arm}})
        assert (kept.arm, kept.sticky_used, kept.sticky_save) == (first.arm, True, None)
        assert evaluate(after.features, "f", {"id": unit}).arm == "off"


def test_keys_and_names_may_be_chinese() -> None:
    flags = load_flags(
        "flags:\n  新购物车:\n    kind: text\n    variants: {旧: a, 新: b}\n    default: 旧\n"
        "    rules: [{when: {国家: 中国}, serve: 新}]\n"
    )
    assert evaluate(flags.features, "新购物车", {"国家": "中国"}).value == "b"


def test_unquoted_dates_and_times_are_texts() -> None:
    flags = flag(
        "{default: off, rules: [{when: {now: {$date: {$gte: 2027-01-29T13:00:00Z}}}, serve: on}]}"
    )
    assert evaluate(flags.features, "f", {"now": "2027-01-29T14:00:00+01:00"}).value is True
    assert evaluate(flags.features, "f", {"now": "2027-01-29T12:59:59.999Z"}).value is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "flags: expected a mapping, not nothing"),
        ("flags: [a]", r"flags:1: \.flags: expected a mapping"),
        ("flags:", r"flags:1: \.flags: expected a mapping, not nothing"),
        ("public_attributes: [a.b]\nflags: {}", "part of an attribute: list 'a'"),
        ("flags: {f: {default: off}, f: {default: on}}", "flags:1: field 'f' is written twice"),
        ("flags: {f: {}}", r"flags:1: \.flags\.f: field 'default' is missing"),
        ("flags: {$f: {default: off}}", r"keys with \$ are generated; rename it"),
        ("flags: {f: {default: blue}}", r"no variant 'blue'; its variants are: on, off"),
        ("flags: {f: {kind: text, default: a}}", "a flag of kind text needs variants"),
        ("flags: {f: {kind: colour, variants: {a: 1}, default: a}}", "kind must be one of boolean"),
        ("flags: {f: {kind: number, variants: {a: '1'}, default: a}}", "'1' is no value of kind"),
        ("flags: {f: {kind: number, variants: {a: true}, default: a}}", "True is no value of kind"),
        ("flags: {f: {kind: number, variants: {a: .nan}, default: a}}", "nan is no JSON number"),
        ("flags: {f: {kind: json, variants: {a: 2027-01-01}, default: a}}", "no JSON value; quote"),
        ("flags: {f: {kind: text, variants: {'yes': a}, default: yes}}", "quote them"),
        ("flags: {f: {default: off, owner: 3}}", "owner must be text"),
        ("flags: {f: {default: off, expires: soon}}", r"\.f\.expires: expected a day such as"),
        ("flags: {f: {default: off, holdout: h}}", "no holdout 'h'; holdouts are: none"),
        ("flags: {f: {default: off, colour: red}}", r"\.colour: unknown field; expected one of"),
        ("flags: {f: {default: off, rules: [{}]}}", "needs either serve or experiment"),
        ("flags: {f: {default: off, rules: [{serve: on, share: 2}]}}", "share must be a number"),
        (
            "flags: {f: {default: off, rules: [{serve: on, when: {a: {$gr: 1}}}]}}",
            r"\.f\.rules\[0\]\.when: when\.a\.\$gr: unknown operator",
        ),
        (
            "flags: {f: {default: off, rules: [{serve: on, when: {a: {$regex: '(?<x>a)'}}}]}}",
            r"when\.a\.\$regex: '\(\?<x>' means different things in Python and JavaScript",
        ),
        (
            "flags: {f: {default: off, rules: [{serve: on, when: {a: {$inGroup: g}}}]}}",
            "there is no group 'g'; groups are: none",
        ),
        (
            "flags: {f: {default: off, rules: [{serve: on, when: {a: {$inGroup: [g]}}}]}}",
            r"there is no group \['g'\]",
        ),
        ("flags: {f: {default: off, holdout: [h]}}", r"no holdout \['h'\]"),
        (
            "flags: {f: {default: off, rules: [{serve: on, when: {a: {in: [x]}}}]}}",
            r"when\.a: operators begin with \$: write \$in, or",
        ),
        (
            "flags: {f: {default: off, rules: [{serve: on, when: {a: {$gte: [18]}}}]}}",
            r"when\.a\.\$gte: expected a number or a text, not \[18\]",
        ),
        (
            "flags: {f: {default: off, rules: [{serve: on, when: {a: {$type: int}}}]}}",
            r"\$type: expected one of boolean, number",
        ),
        (
            "flags: {f: {default: off, rules: [{serve: on, when: {a: {$cidr: [10.0.0.0/33]}}}]}}",
            r"\$cidr: expected networks such as 10\.0\.0\.0/8",
        ),
        (
            "flags: {f: {default: off, rules: [{serve: on, when: {a: {$size: '2'}}}]}}",
            r"\$size: expected a number or comparisons",
        ),
        (
            "flags: {f: {default: off, rules: [{serve: on, when: {'#a': 1}}]}}",
            "names with # or",
        ),
        (
            "flags: {f: {default: off, rules: [{serve: on, when: {a: 99999999999999999}}]}}",
            r"beyond 2\*\*53",
        ),
        (
            "flags: {f: {default: off, prerequisites: [{flag: g, variants: [on]}]}}",
            r"prerequisites\[0\]\.flag: there is no flag 'g'; define it",
        ),
        (
            "flags: {f: {default: off, prerequisites: [{flag: f, variants: [on]}]}}",
            r"\.f\.prerequisites: flag 'f' needs itself \(f -> f\)",
        ),
        (
            "flags: {f: {default: off, rules: [{experiment: {key: e, arms: [off]}}]}}",
            "needs at least two arms",
        ),
        (
            "flags: {f: {default: off, rules: [{experiment: {key: e, arms: [off, blue]}}]}}",
            r"arms\[1\]: flag 'f' has no variant 'blue'",
        ),
        (
            "flags: {f: {default: off, rules: [{experiment: {key: e, arms: "
            "[{variant: off, weight: .4}, {variant: on, weight: .4}]}}]}}",
            r"arm weights must sum to 1, they sum to 0\.8",
        ),
        (
            "flags: {f: {default: off, rules: [{experiment: {key: e, arms: "
            "[{variant: off, weight: .4}, on]}}]}}",
            "give every arm a weight",
        ),
        (
            "flags: {f: {default: off, rules: [{share: .5, experiment: "
            "{key: e, arms: [off, on]}}]}}",
            "share does not go with experiment",
        ),
        (
            "flags: {f: {default: off, rules: [{experiment: "
            "{key: e, fallback_unit: device, arms: [off, on]}}]}}",
            "fallback_unit needs sticky: true",
        ),
    ],
)
def test_wrong_files_name_line_key_and_cure(text: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        load_flags(text)


EXPERIMENTS = """flags:
  a:
    default: off
    rules:
      - experiment: {key: x, arms: [off, on], namespace: {name: n, start: 0, end: 0.5}}
  b:
    default: off
    rules:
      - experiment: %s
"""


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            "{key: y, arms: [off, on], namespace: {name: n, start: 0.4, end: 1}}",
            r"flags:9: \.flags\.b\.rules\[0\]\.experiment: experiments 'x' and 'y' run in "
            "overlapping slices of namespace 'n'; separate the slices or stop one",
        ),
        ("{key: y, seed: x, arms: [off, on]}", "run with the same seed"),
        (
            "{key: x, arms: [on, off], namespace: {name: n, start: 0, end: 0.5}}",
            r"experiment key 'x' is used before \(flags\.a\.rules\.0\.experiment\) with another",
        ),
    ],
)
def test_experiments_do_not_disturb_each_other(second: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        load_flags(EXPERIMENTS % second)


def test_one_experiment_may_drive_several_flags() -> None:
    same = "{key: x, arms: [off, on], namespace: {name: n, start: 0, end: 0.5}}"
    flags = load_flags(EXPERIMENTS % same)
    assert list(flags.experiments) == ["x"]
    for unit in UNITS[:100]:
        first, second = (evaluate(flags.features, key, {"id": unit}).arm for key in "ab")
        assert first == second


def test_a_circle_is_named() -> None:
    with pytest.raises(DefinitionError, match=r"needs itself \((a -> b -> a|b -> a -> b)\)"):
        load_flags(
            "flags:\n"
            "  a: {default: off, prerequisites: [{flag: b, variants: [on]}]}\n"
            "  b: {default: off, prerequisites: [{flag: a, variants: [on]}]}\n"
        )


def needing(needs: list[list[str]]) -> str:
    """Return flags f0, f1, … where each needs those named."""
    return "flags:\n" + "".join(
        f"  f{number}: {{default: {'off' if names else 'on'}, rules: [{{serve: on}}], "
        f"prerequisites: [{', '.join(f'{{flag: {name}, variants: [on]}}' for name in names)}]}}\n"
        for number, names in enumerate(needs)
    )


def test_prerequisites_that_meet_again_are_evaluated_once() -> None:
    """Each flag needs the one before twice: 2³⁰ steps, if each result were computed anew."""
    flags = load_flags(needing([[], *([f"f{number}"] * 2 for number in range(30))]))
    assert evaluate(flags.features, "f30", {"id": "u"}).value is True
    assert all(result.value for result in evaluate_all(flags.features, {"id": "u"}).values())


def test_a_chain_of_prerequisites_is_bounded() -> None:
    chain: list[list[str]] = [[], *([f"f{number}"] for number in range(32))]
    assert evaluate(load_flags(needing(chain[:32])).features, "f31", {}).value is True
    with pytest.raises(
        DefinitionError, match=r"\.f32\.prerequisites: a chain of prerequisites has"
    ):
        load_flags(needing(chain))


def test_an_object_is_compared_by_eq() -> None:
    text = "flags: {f: {default: off, rules: [{serve: on, when: {a: {$eq: {size: 3}}}}]}}"
    assert evaluate(load_flags(text).features, "f", {"a": {"size": 3}}).value is True


def test_a_message_is_no_longer_than_a_page() -> None:
    with pytest.raises(DefinitionError) as caught:
        load_flags(f"flags: {{f: {{default: {'x' * 1_000_000}}}}}")
    assert len(str(caught.value)) < 3_000
    assert "its variants are: on, off" in str(caught.value)


def test_all_wrong_flags_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("flags:\n  a: {default: red}\n  b: {default: off}\n  c: {default: blue}\n")
    with pytest.raises(DefinitionError) as caught:
        load_flags(file)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{file}:2", f"{file}:4"]
