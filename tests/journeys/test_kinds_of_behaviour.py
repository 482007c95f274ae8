"""Shops that know clicks alone, or visitors without a name (purchases: `test_no_internet`)."""

from __future__ import annotations

import pytest
from tests.journeys.installation import Shop, Terminal
from tests.journeys.visits import category, items, taste, visits, write_csv

pytestmark = pytest.mark.slow


def describe(terminal: Terminal) -> None:
    rows = ((item, f"One of the {category(item)}", category(item)) for item in items())
    write_csv(terminal.folder / "items.csv", "sku,name,category", rows)


def check(shop: Shop, key: str, name: str) -> None:
    """Each visitor's list of a trained model stays within the own category."""
    for visitor in range(8):
        answer = shop.recommend(**{key: name.format(visitor)}, count=8)
        assert answer["fallback"] is None
        chosen = [category(item["item_id"]) for item in answer["items"]]
        assert chosen.count(taste(visitor)) >= 7, (visitor, chosen)


def test_only_clicks(terminal: Terminal) -> None:
    """A table without a type of events asks for one instead of guessing."""
    describe(terminal)
    rows = visits()
    clicks = ((f"c{r.visitor}", r.item, r.at.isoformat()) for r in rows)
    write_csv(terminal.folder / "clicks.csv", "user_id,item,time", clicks)
    with terminal.serving() as shop:
        shop.run("tactful import items.csv")
        asked = shop.run("tactful import clicks.csv", code=1).err
        assert "no column has the type of the event" in asked
        assert "--set type=view" in asked
        sent = shop.run("tactful import clicks.csv --set type=click").out
        assert sent == f"{len(rows)} accepted, 0 known before, 0 rejected (from row 1)\n"
        untrained = shop.recommend(user_id="c1")["fallback"]
        assert "no model is trained yet" in untrained
        shop.trained()
        check(shop, "user_id", "c{}")
        popular = shop.run("tactful items popular --count 5").out.split()[1::2]
        assert len(popular) == 5 and set(popular) <= set(items())


def test_only_anonymous_visits(terminal: Terminal) -> None:
    """Every visit is another device; a new one is answered by what its page shows."""
    describe(terminal)
    rows = visits(240, visitors=240)
    views = ((f"v{r.visitor}", r.visit, "pageview", r.item, r.at.isoformat()) for r in rows)
    write_csv(terminal.folder / "views.csv", "visitor_id,session,event,product,time", views)
    with terminal.serving() as shop:
        shop.run("tactful import items.csv")
        told = shop.run("tactful import views.csv")
        assert "device_id  ← visitor_id" in told.err
        assert told.out == f"{len(rows)} accepted, 0 known before, 0 rejected (from row 1)\n"
        shop.trained()
        check(shop, "device_id", "v{}")
        stranger = shop.recommend(device_id="new", count=8)
        assert "this user has no history yet" in stranger["fallback"]
        assert len(stranger["items"]) == 8
        page = shop.recommend(items=["tea-1", "tea-2"], count=6)
        assert page["fallback"] is None
        assert {category(item["item_id"]) for item in page["items"]} == {"tea"}
        # A visitor's id is of a device: asked for as a user it is unknown, and that is said.
        wrong = shop.run("tactful recommend --user v1 --count 5").err
        assert "this user has no history yet" in wrong
        right = shop.run("tactful recommend --device v1 --count 5")
        assert right.err == "" and f"{taste(1)}-" in right.out
