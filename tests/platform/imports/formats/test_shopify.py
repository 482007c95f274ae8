"""Shopify's export of products."""

from __future__ import annotations

from pathlib import Path

from tests.platform.imports.support import converted, understood, write

HEAD = (
    "Handle,Title,Body (HTML),Vendor,Type,Tags,Published,Option1 Name,Option1 Value,Variant SKU,"
    "Variant Inventory Tracker,Variant Inventory Qty,Variant Inventory Policy,Variant Price,"
    "Image Src,Status\n"
)
ROWS = (
    'tea,Assam,"<p>Good,\nstrong</p>",Brown,Drinks,"black, india",true,Size,S,TEA-S,shopify,0,deny,'
    "9.50,https://x/1.png,active\n"
    "tea,,,,,,,,L,TEA-L,shopify,3,deny,15.00,https://x/2.png,\n"
    "tea,,,,,,,,,,,,,,https://x/3.png,\n"
    "cup,Cup,,Brown,Kitchen,,true,,,CUP,shopify,0,deny,8,,active\n"
    "pot,Pot,,Brown,Kitchen,,true,,,POT,,,deny,20,,draft\n"
    "jug,Jug,,Brown,Kitchen,,true,,,JUG,,,deny,20,,active\n"
)


def test_a_product_is_one_item(tmp_path: Path) -> None:
    path = write(tmp_path / "products.csv", HEAD + ROWS)
    elements, rejected = converted(path)
    tea, cup, pot, jug = elements
    assert (tea["item_id"], tea["title"], tea["category"], tea["price"]) == (
        "tea",
        "Assam",
        "Drinks",
        9.5,
    )
    assert tea["available"] is True, "one of its sizes is in stock"
    assert tea["properties"]["Variant SKU"] == ["TEA-S", "TEA-L"]
    assert tea["properties"]["Vendor"] == "Brown"
    assert [it["available"] for it in (cup, pot, jug)] == [False, False, True]
    assert rejected == []
    assert any("--map 'item=Variant SKU'" in note for note in understood(path).guess.notes)


def test_a_variant_can_be_an_item(tmp_path: Path) -> None:
    path = write(tmp_path / "products.csv", HEAD + ROWS)
    elements, _ = converted(path, maps=("item=Variant SKU",))
    assert [(it["item_id"], it["title"], it["price"], it["available"]) for it in elements] == [
        ("TEA-S", "Assam", 9.5, False),
        ("TEA-L", "Assam", 15, True),
        ("CUP", "Cup", 8, False),
        ("POT", "Pot", 20, False),
        ("JUG", "Jug", 20, True),
    ]
    assert elements[1]["properties"]["Image Src"] == "https://x/2.png"


def test_an_unfinished_product_is_whole_in_the_next_batch(tmp_path: Path) -> None:
    path = write(tmp_path / "products.csv", HEAD + ROWS)
    assert converted(path, count=1) == converted(path, count=100)
