"""Reasons in words: holdouts and prerequisites by the names that a file gives them."""

from __future__ import annotations

from tactful.flags.reasons import rules_in_words, steps
from tactful_bandits.flags import compile_features, load_flags

FLAGS = load_flags("""
holdouts:
  全站: {share: 0.5}
flags:
  夜间: {default: off, rules: [{serve: on, when: {省份: 北京}}]}
  首页:
    default: off
    holdout: 全站
    prerequisites: [{flag: 夜间, variants: [on]}]
    rules: [{serve: on}]
""")


def test_a_holdout_and_a_prerequisite_are_named() -> None:
    reasons = set()
    for number in range(20):
        for place in ("北京", "上海"):
            unit = {"id": f"u-{number}", "省份": place}
            reasons |= {step.why for step in steps(FLAGS.features, "首页", unit, None)}
    held, missing = "the unit is in the holdout 全站", "the prerequisite 夜间 does not hold"
    assert reasons == {held, missing, "applies"}
    feature = compile_features(FLAGS)["features"]["首页"]
    words = rules_in_words(feature)[0].words
    assert words == "everyone; not in the holdout 全站; only if 夜间 value is one of true: true"
