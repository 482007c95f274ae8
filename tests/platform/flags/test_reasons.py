"""Rules and obstacles in words that a reader knows from the file of flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from tactful.flags.reasons import rules_in_words, steps
from tactful_bandits.flags import compile_features, load_flags

_TEXT = """
groups: {编辑部: [ann]}
holdouts: {长期对照: {share: 0.999}}
flags:
  折叠: {default: off}
  布局:
    default: off
    rules:
      - {when: {id: {$inGroup: 编辑部}}, serve: on}
      - {when: {id: {$notInGroup: 编辑部}, app: {$vgte: "5.2"}}, serve: on}
      - {when: {mail: {$regex: "@news"}}, serve: on}
      - {serve: on, prerequisites: [{flag: 折叠, variants: [on]}]}
  横幅:
    default: off
    holdout: 长期对照
    rules: [{serve: on}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flags.yaml"
    path.write_text(_TEXT, "utf-8")
    return path


def test_rules_name_groups_holdouts_and_patterns(file: Path) -> None:
    features = compile_features(load_flags(file))["features"]
    words = [rule.words for key in ("布局", "横幅") for rule in rules_in_words(features[key])]
    assert words == [
        'id is in the group "编辑部": true',
        'id is not in the group "编辑部" and app ≥ version "5.2": true',
        'mail matches "@news": true',
        "everyone; only if 折叠 value is true: true",
        "everyone; not in the holdout 长期对照: true",
    ]


def test_an_obstacle_names_the_holdout_or_the_prerequisite(file: Path) -> None:
    features = load_flags(file).features
    assert (
        steps(features, "横幅", {"id": "bob"}, None)[0].why == "the unit is in the holdout 长期对照"
    )
    last = steps(features, "布局", {"id": "bob"}, None)[-1]
    assert last.why == "the prerequisite 折叠 does not hold"
