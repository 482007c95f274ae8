"""The questions of the quality benchmark are what they say, and its peers are those they claim."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.platform.shop import make_shop

from benchmarks.figures import Figure
from benchmarks.quality import peers
from benchmarks.quality import run as quality
from benchmarks.quality.questions import Question, Trial, earlier_trial, final_trial
from benchmarks.quality.served import served_lists
from tactful.demo.datasets import Replay
from tactful.training.evaluation import CUTOFF
from tactful.training.options import TrainingOptions


@pytest.fixture(scope="module", params=[False, True], ids=["next", "basket"])
def shop(request: pytest.FixtureRequest) -> Replay:
    return make_shop(5, people=20, items=60, days=50, tied=request.param, guests=True)


def trial(*visits: tuple[int, ...], items: int = 40, asked: tuple[int, ...] = (0,)) -> Trial:
    return Trial(items, visits, [Question("p", asked, (), frozenset([1]))])


def naive(replay: Replay, number: int, session: str, person: str) -> tuple[list[str], list[str]]:
    """Items of this visit, and of the person's others, before event `number`."""
    before = [n for n in range(number) if replay.kind[n] == 0 and replay.person[n] == person]
    own = [str(replay.item[n]) for n in before if replay.session[n] == session]
    return own, [str(replay.item[n]) for n in before if replay.session[n] != session]


def test_a_question_knows_everything_before_it_and_nothing_else(shop: Replay) -> None:
    found = final_trial(shop)
    names = [str(item["item_id"]) for item in shop.items]
    assert len(found.questions) == len(shop.asks)
    for ask, question in zip(shop.asks, found.questions, strict=True):
        own, others = naive(shop, ask.before, ask.session_id, ask.person)
        assert [names[item] for item in question.prefix] == own
        assert [names[item] for item in question.history] == others
        assert {names[item] for item in question.taken} == ask.taken


def test_what_the_catalogue_does_not_describe_has_a_number_too(shop: Replay) -> None:
    bare = replace(shop, items=shop.items[10:])
    assert final_trial(bare).items == final_trial(shop).items
    learned = sum(map(len, final_trial(bare).visits))
    assert learned == sum(map(len, final_trial(shop).visits))


def test_nothing_after_the_cut_is_learned(shop: Replay) -> None:
    names = [str(item["item_id"]) for item in shop.items]
    learned = Counter(names[item] for visit in final_trial(shop).visits for item in visit)
    past = zip(shop.item[: shop.cut], shop.kind, shop.person, strict=False)
    bought = [(item, person) for item, kind, person in past if item is not None and kind == 0]
    assert learned == Counter(item for item, by in bought if not by.startswith("guest-"))


def test_the_earlier_trial_ends_before_the_cut(shop: Replay) -> None:
    """Were anything of the test period in it, a replay without that period would differ."""
    begin, end = int(shop.timestamp[0]), int(shop.timestamp[shop.cut - 1])
    found = earlier_trial(shop, days=10, questions=50)
    names = [str(item["item_id"]) for item in shop.items]
    seen = {str(item) for item in shop.item[: shop.cut] if item is not None}
    assert 0 < len(found.questions) <= 50
    assert end - begin > 10 * 86_400_000
    for question in found.questions:
        assert {names[item] for item in question.taken} <= seen
    learned = sum(map(len, found.visits))
    assert 0 < learned < sum(map(len, final_trial(shop).visits))
    past = sum(len(question.history) for question in found.questions)
    assert past > 0


def test_a_peer_gives_a_list_of_different_items(shop: Replay) -> None:
    asked = final_trial(shop)
    simple = [peers.POPULARITY, peers.OWN_FREQUENCY, peers.OWN_FADED, peers.CO_VISITATION]
    for peer in [*simple, peers.V_SKNN, peers.ITEM_KNN, peers.ease()]:
        found = peer.lists(asked, **peer.settings[0])
        assert found.shape == (len(asked.questions), CUTOFF), peer.name
        for row in found.tolist():
            shown = [item for item in row if item >= 0]
            assert len(set(shown)) == len(shown) >= CUTOFF // 2, peer.name


def test_lists_leave_out_the_visit_and_break_ties_by_popularity() -> None:
    asked = trial((7, 8), (8, 9), (8,), asked=(9,))
    found = peers.best(asked, lambda part: np.zeros((1, 40)))
    assert found[0, :2].tolist() == [8, 7]
    assert 9 not in found


def test_item_knn_is_the_cosine() -> None:
    visits = ((0, 1), (0, 1, 2), (0, 3), (2, 3), (0, 2))
    asked = trial(*visits)
    found = peers.item_knn(asked, neighbours=40, shrink=0.0, fade=1.0, history=0.0)[0]
    held = np.array([[item in visit for item in range(4)] for visit in visits], float)
    cosine = held.T @ held / np.sqrt(np.outer(held.sum(0), held.sum(0)))
    assert found[:3].tolist() == (np.argsort(-cosine[0][1:], kind="stable") + 1).tolist()


def test_ease_reconstructs_best_with_a_zero_diagonal() -> None:
    """The closed form against gradient: the weights of each item solve its ridge regression."""
    visits = ((0, 1), (0, 1, 2), (0, 3), (2, 3), (0, 2), (1, 3))
    held = np.array([[item in visit for item in range(40)] for visit in visits], float)
    weights = np.zeros((40, 40))
    for item in range(40):
        others = [other for other in range(40) if other != item]
        left = held[:, others].T @ held[:, others] + 2.0 * np.eye(39)
        weights[others, item] = np.linalg.solve(left, held[:, others].T @ held[:, item])
    asked = trial(*visits, asked=(0, 3))
    found = peers.Ease().lists(asked, penalty=2.0, fade=0.5, history=0.0)[0]
    scores = 0.5 * weights[0] + weights[3]
    assert found[:2].tolist() == [it for it in np.argsort(-scores) if it not in (0, 3)][:2]


def test_v_sknn_listens_to_the_visits_that_share_the_latest_item() -> None:
    visits = ((0, 5), (1, 6), (1, 6), (0, 1, 7))
    asked = trial(*visits, asked=(0, 1))
    found = peers.v_sknn(asked, neighbours=10, steep=1.0, rare=False)[0]
    # 7 met both; 6 met the latest twice; 5 the older once, at half the likeness and half the vote.
    assert found[:3].tolist() == [6, 7, 5]


def test_queries_weigh_the_visit_above_the_history() -> None:
    asked = Trial(5, [], [Question("p", (0, 1, 0), (2, 1), frozenset([4]))])
    found = peers.queries(asked, fade=0.5, history=0.1).toarray()[0]
    assert found.tolist() == pytest.approx([1.0, 0.5, 0.1, 0.0, 0.0])


@pytest.mark.slow
def test_a_served_list_knows_nothing_of_what_comes_later(tmp_path: Path) -> None:
    """Take the end of the replay away: lists asked for before it stay the same to the last item."""
    shop = make_shop(8, people=12, items=50, days=40)
    options = TrainingOptions(label_days=10, lists=60, rounds=8, threads=1)
    middle = shop.asks[len(shop.asks) // 2]
    kept = [ask for ask in shop.asks if ask.before <= middle.before]
    cut_off = {
        name: getattr(shop, name)[: middle.before]
        for name in ("timestamp", "kind", "person", "session", "item", "price", "quantity")
    }
    whole = served_lists(shop, tmp_path / "whole", options)
    part = served_lists(replace(shop, **cut_off, asks=kept), tmp_path / "part", options)
    assert len(whole) == len(shop.asks)
    assert part == whole[: len(kept)]
    assert all(len(set(items)) == CUTOFF for items in whole)
    hits = [bool(ask.taken & set(items)) for ask, items in zip(shop.asks, whole, strict=True)]
    assert sum(hits) > 0.2 * len(hits)


def test_the_best_peer_is_compared_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shop = make_shop(5, people=20, items=60, days=50)
    right = [tuple(ask.taken) for ask in shop.asks]
    monkeypatch.setattr(quality, "served_lists", lambda *_, **__: right)
    contest = quality.Contest("shop", shop, ("hr20", "mrr20"), tmp_path)
    contest.ask([peers.POPULARITY, peers.CO_VISITATION])

    def absent() -> list[peers.Peer]:
        raise FileNotFoundError("no such interpreter")

    contest.ask_if_there(absent, "als")
    found = {figure.name: figure for figure in contest.figures()}
    assert found["shop_hr20"].value == found["shop_mrr20"].value == 1.0
    rates = [found[f"shop_hr20_{peer}"].value or 0.0 for peer in ("popularity", "co_visitation")]
    best = found["shop_best_baseline_hr20"]
    assert best.value == max(rates) > min(rates) > 0.0
    lead = found["shop_hr20_vs_best_baseline"]
    assert lead.value == pytest.approx(1.0 / max(rates))
    assert lead.low is not None and lead.high is not None
    assert 1.0 < lead.low < 1.0 / max(rates) < lead.high
    assert found["shop_hr20_als"].value is None
    assert "no such interpreter" in found["shop_hr20_als"].note


def test_earlier_questions_choose_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A peer that is right with one setting before the cut and with the other one after it."""
    shop = make_shop(5, people=20, items=60, days=50)
    monkeypatch.setattr(quality, "served_lists", lambda *_, **__: [()] * len(shop.asks))
    contest = quality.Contest("shop", shop, ("hr20",), tmp_path)
    final = len(shop.asks)

    def lists(asked: Trial, *, early: bool) -> peers.Lists:
        found = np.full((len(asked.questions), CUTOFF), -1, np.int64)
        if early != (len(asked.questions) == final):
            found[:, 0] = [min(question.taken) for question in asked.questions]
        return found

    assert len(earlier_trial(shop).questions) != final
    contest.ask([peers.Peer("two_faced", lists, peers.grid(early=(False, True)))])
    found = {figure.name: figure for figure in contest.figures()}
    assert found["shop_hr20_two_faced"].value == 0.0
    assert found["shop_hr20_vs_best_baseline"].value is None
    assert found["shop_hr20_two_faced"].note.startswith("early True; best of 2 settings")


def test_a_failed_part_leaves_its_figures_without_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(quick: bool) -> list[Figure]:
        raise OSError("no such data")

    fine = quality.Part({"b": "1", "c": "1"}, lambda quick: [Figure("b", 2.0, "1")])
    monkeypatch.setattr(quality, "PARTS", (quality.Part({"a": "1"}, fails), fine))
    found = {figure.name: figure for figure in quality.run(True)}
    values = {name: figure.value for name, figure in found.items()}
    assert values == {"a": None, "b": 2.0, "c": None}
    assert "no such data" in found["a"].note
