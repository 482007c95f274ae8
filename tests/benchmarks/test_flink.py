"""The benchmark of Flink: which rounds of kills are left out, and what counts as different."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from benchmarks.figures import commit
from benchmarks.flink import kills
from benchmarks.flink.lists import different


def a_round(seed: int, wanted: int, folder: Path) -> kills.Round:
    assert folder.is_dir()
    return kills.Round(
        commit=commit(),
        seed=seed,
        kills=wanted,
        killed={"worker": wanted},
        entities=100,
        wrong=seed % 2,
        planted=3,
        examples=["views: 1"] if seed % 2 else [],
    )


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []

    def interrupted(seed: int, wanted: int, folder: Path) -> kills.Round:
        rounds.append(seed)
        if len(rounds) == 3:
            raise KeyboardInterrupt
        return a_round(seed, wanted, folder)

    monkeypatch.setattr(kills, "_round", interrupted)
    file = tmp_path / "reports" / "rounds.jsonl"
    (tmp_path / "first").mkdir()
    with pytest.raises(KeyboardInterrupt):
        kills.kills(False, tmp_path / "first", file)
    (tmp_path / "second").mkdir()
    figures = {it.name: it for it in kills.kills(False, tmp_path / "second", file)}
    assert rounds == [41, 42, 43, 43, 44, 45]
    assert figures["flink_kills"].value == 50
    assert figures["flink_wrong_values"].value == 3
    assert "found in 5 of 5 rounds; views: 1" in figures["flink_wrong_values"].note
    assert {name for name, _ in kills.FIGURES} == figures.keys()


def test_rounds_of_other_commits_and_sizes_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "rounds.jsonl"
    assert kills.finished(file, 10) == []
    mine = a_round(41, 10, tmp_path)
    other = msgspec.structs.replace(mine, commit="another")
    lines = (mine, other, a_round(41, 4, tmp_path))
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in lines))
    assert kills.finished(file, 10) == [mine]


def test_each_kind_is_killed_as_often_as_the_others() -> None:
    assert Counter(kills.deck(random.Random(1), 50)) == dict.fromkeys(kills.KINDS, 10)
    assert len(set(kills.deck(random.Random(1), 4))) == 4


def test_another_item_order_or_score_is_a_difference() -> None:
    first = [{"item_id": "tea", "score": 2.0}, {"item_id": "cup", "score": 1.0}]
    turned = first[::-1]
    scored = [{"item_id": "tea", "score": 2.0001}, first[1]]
    rounded = [{"item_id": "tea", "score": 2.0 * (1 + 1e-15)}, first[1]]
    assert different([first] * 4, [first, turned, scored, rounded]) == 2
    assert different([first], [first[:1]]) == 1
