"""The made-up people of the benchmarks of new items, and their questions."""

import numpy as np
import pytest

from benchmarks.search import cold_products, voice_served
from benchmarks.search.cold import Questions, places_of, titles_alone
from benchmarks.search.made_people import hits_by_popularity, made_up_shop, questions_of
from tactful.errors import ConfigError, TactfulError
from tactful_streaming.contract.log_entries import Item

LABEL = np.repeat(np.arange(10), 30)


def test_people_take_items_of_one_or_two_classes() -> None:
    shop = made_up_shop(LABEL, 400)
    assert shop.taken.shape == (400, 20) and shop.later.shape == (400, 5)
    shares = np.sort(
        [np.bincount(LABEL[row], minlength=10) / 25 for row in np.hstack([shop.taken, shop.later])]
    )[:, ::-1]
    assert shares[:, :2].sum(axis=1).mean() > 0.9
    single = (shares[:, 0] > 0.8).mean()
    assert 0.35 < single < 0.7, "some have one class, others two"
    assert 30 < shop.hidden.sum() < 90
    again = made_up_shop(LABEL, 400)
    assert np.array_equal(shop.taken, again.taken) and np.array_equal(shop.hidden, again.hidden)


def test_large_classes_are_liked_as_often_as_they_have_items() -> None:
    label = np.repeat([7, 3], [60, 240])
    taken = made_up_shop(label, 400).taken
    per_item = np.bincount(taken.ravel(), minlength=300)
    assert 0.6 < per_item[:60].mean() / per_item[60:].mean() < 1.7


def test_questions_are_for_hidden_items_after_known_ones() -> None:
    shop = made_up_shop(LABEL, 400)
    questions = questions_of(shop)
    assert shop.hidden[questions.wanted].all() and len(questions.wanted) > 200
    assert all(it and not shop.hidden[list(it)].any() for it in questions.recent)
    asked = zip(questions.person.tolist(), questions.wanted.tolist(), strict=True)
    assert all(wanted in shop.later[person] for person, wanted in asked)
    hits = hits_by_popularity(shop, questions)
    chance = 20 / shop.hidden.sum()
    assert np.allclose(hits["popularity"], chance) and hits["informed"].mean() > chance


def test_the_same_score_gives_a_place_in_the_middle() -> None:
    hidden = np.arange(1, 101)
    same, apart = np.ones((101, 2), np.float32), np.eye(101, dtype=np.float32)
    apart[7] = apart[0]
    asked = Questions([[0]], np.array([7]), np.array([0]))
    assert places_of(same, hidden, asked)[0] == 50, "nobody knows which is first"
    assert places_of(apart, hidden, asked)[0] == 0


def test_hidden_items_have_titles_alone() -> None:
    shown = Item(item_id="a", timestamp=0, title="cup", category="home", price=3.0)
    new = Item(item_id="b", timestamp=0, title="mug", category="home", price=4.0)
    plain = Item(item_id="b", timestamp=0, title="mug")
    assert titles_alone([shown, new], np.array([False, True])) == [shown, plain]


def test_figures_without_an_encoder_have_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ConfigError("the package is absent")

    items = [Item(item_id=str(row), timestamp=0, title=f"title {LABEL[row]}") for row in range(300)]
    monkeypatch.setattr(cold_products, "open_item_vectors", absent)
    monkeypatch.setattr(cold_products, "_products", lambda: (items, LABEL))
    monkeypatch.setattr(cold_products, "FEW", 20)
    figures = {figure.name: figure for figure in cold_products.cold_products(quick=True)}
    assert figures.keys() == {name for name, _ in cold_products.FIGURES}
    measured = {name for name, figure in figures.items() if figure.value is not None}
    assert measured == {"cold_item_recall20_words_product_text"}
    assert "absent" in figures["cold_item_recall20_ratio_product_text"].note
    monkeypatch.setattr(voice_served, "open_text_encoder", absent)
    with pytest.raises(TactfulError, match="absent"):
        voice_served.english_figures(quick=True)
