"""Made-up goods, customers and pictures: the same in each run, and such that lists have something
to find."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import defaultdict

from tactful.demo.shop.customers import NAMES, make_customers, make_history
from tactful.demo.shop.goods import CATEGORIES, COLOURS, DAY, make_goods
from tactful.demo.shop.pictures import FORMS, picture

NOW = 1_790_000_000_000
GOODS = make_goods(now=NOW)
CUSTOMERS = make_customers()
HISTORY = make_history(GOODS, CUSTOMERS, now=NOW)


def test_everything_is_the_same_in_each_run() -> None:
    assert make_goods(now=NOW) == GOODS
    assert make_goods(now=NOW, seed=28) != GOODS
    assert make_customers() == CUSTOMERS
    again = make_history(GOODS, make_customers(), now=NOW)
    assert list(again.events(0, len(again))) == list(HISTORY.events(0, len(HISTORY)))
    assert [picture(good) for good in make_goods(now=NOW)] == [picture(good) for good in GOODS]


def test_goods_have_names_prices_and_categories_of_their_own() -> None:
    assert len(CATEGORIES) == 8
    assert len({good.item_id for good in GOODS}) == len({good.title for good in GOODS}) == 304
    prices = {category.name: category.prices for category in CATEGORIES}
    for good in GOODS:
        lowest, highest = prices[good.category]
        assert lowest <= good.price <= highest
        assert NOW - 365 * DAY <= good.released <= NOW


def test_each_picture_can_be_read_and_few_are_alike() -> None:
    roots = [ET.fromstring(picture(good)) for good in GOODS]
    assert {root.tag for root in roots} == {"{http://www.w3.org/2000/svg}svg"}
    assert {form for category in CATEGORIES for _, form in category.forms} == set(FORMS)
    assert all(good.colour in COLOURS for good in GOODS)
    assert len({picture(good) for good in GOODS}) > 250


def test_visits_lie_in_the_past_and_come_in_order() -> None:
    times = HISTORY.timestamp
    assert (times[1:] >= times[:-1]).all()
    assert times[0] > NOW - 22 * DAY
    assert times[-1] < NOW
    assert [it.user_id for it in CUSTOMERS[: len(NAMES)]] == [name.lower() for name in NAMES]
    assert {user["user_id"] for user in HISTORY.users} >= set(HISTORY.person)


def test_a_customer_opens_mostly_what_they_like() -> None:
    category = {good.item_id: good.category for good in GOODS}
    liked = sum(
        category[item] in it.favourites
        for it in CUSTOMERS
        for person, item in zip(HISTORY.person, HISTORY.item, strict=True)
        if person == it.user_id and item is not None
    )
    opened = sum(item is not None for item in HISTORY.item)
    assert 0.4 < liked / opened < 0.8, "by chance it would be a quarter"


def test_most_items_have_companions_that_enough_people_took() -> None:
    visits = defaultdict(set)
    for person, session, item in zip(HISTORY.person, HISTORY.session, HISTORY.item, strict=True):
        if item is not None:
            visits[person, session].add(item)
    people = defaultdict(set)
    for (person, _), items in visits.items():
        for one in items:
            for other in items - {one}:
                people[one, other].add(person)
    # `recommend.anonymous_minimum`
    assert len({one for (one, _), who in people.items() if len(who) >= 10}) > len(GOODS) / 2
