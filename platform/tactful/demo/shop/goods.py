"""Made-up goods of the web shop: the same for the same seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

DAY = 86_400_000

COLOURS = {
    "blue": "#4a76a8",
    "green": "#5b8c5a",
    "red": "#b5524a",
    "yellow": "#d3a534",
    "grey": "#7d8288",
    "brown": "#8a6646",
    "plum": "#86557e",
    "sand": "#c3aa7e",
}
"""Colour of a picture by the name of a colour."""

MATERIALS = ("oak", "linen", "glass", "steel", "clay", "cork", "wool", "bamboo")


@dataclass(frozen=True)
class Category:
    """A category of the shop: what it sells, by the form of its picture, and usual prices."""

    name: str
    forms: tuple[tuple[str, str], ...]  # pairs of a noun and a form of `pictures.FORMS`
    prices: tuple[float, float]  # the lowest and the highest


CATEGORIES = (
    Category("tea", (("teapot", "pot"), ("tea cup", "cup"), ("tea tin", "tin")), (6, 48)),
    Category("kitchen", (("bowl", "bowl"), ("jar", "bottle"), ("board", "board")), (5, 60)),
    Category("garden", (("planter", "plant"), ("watering can", "pot"), ("crate", "box")), (8, 75)),
    Category("desk", (("notebook", "book"), ("pen tray", "board"), ("clock", "clock")), (4, 55)),
    Category("bath", (("soap dish", "bowl"), ("flask", "bottle"), ("towel", "cloth")), (4, 42)),
    Category("travel", (("bag", "bag"), ("bottle", "bottle"), ("pouch", "cloth")), (12, 120)),
    Category("toys", (("ball", "ball"), ("blocks", "box"), ("puzzle", "board")), (6, 50)),
    Category("light", (("lamp", "lamp"), ("lantern", "tin"), ("candle", "cup")), (9, 140)),
)


@dataclass(frozen=True)
class Good:
    """An item of the shop."""

    item_id: str
    title: str
    category: str
    price: float
    colour: str
    form: str
    released: int  # epoch milliseconds

    def upsert(self) -> dict[str, Any]:
        """Return the item as ``PUT /v1/items`` takes it."""
        properties = {"colour": self.colour, "released": self.released}
        return {
            "item_id": self.item_id,
            "title": self.title,
            "category": self.category,
            "price": self.price,
            "properties": properties,
        }


def make_goods(*, now: int, seed: int = 27, each: int = 38) -> list[Good]:
    """Make `each` goods of every category, released within the year before `now` (epoch ms)."""
    draw = random.Random(seed)
    goods = []
    for category in CATEGORIES:
        names = [
            (colour, material, noun, form)
            for noun, form in category.forms
            for colour in COLOURS
            for material in MATERIALS
        ]
        for colour, material, noun, form in draw.sample(names, each):
            lowest, highest = category.prices
            price = lowest * (highest / lowest) ** draw.betavariate(2, 3)
            goods.append(
                Good(
                    item_id=f"{colour}-{material}-{noun.replace(' ', '-')}",
                    title=f"{colour.capitalize()} {material} {noun}",
                    category=category.name,
                    price=round(price * 2) / 2,
                    colour=colour,
                    form=form,
                    released=now - round(draw.random() ** 2 * 365 * DAY),
                )
            )
    return goods
