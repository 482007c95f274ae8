"""Product feeds of Google Merchant."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.platform.imports.support import converted, write

from tactful.errors import DatasetError

RSS = """<?xml version="1.0" encoding="UTF-8"?>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel>
<title>Shop</title><link>https://shop.example</link>
<item>
  <g:id>tea</g:id><title><![CDATA[Assam & more]]></title><link>https://shop.example/tea</link>
  <g:price>15.00 EUR</g:price><g:availability>in_stock</g:availability>
  <g:product_type>Drinks &gt; Tea</g:product_type><g:brand>Brown</g:brand>
  <g:additional_image_link>a.png</g:additional_image_link>
  <g:additional_image_link>b.png</g:additional_image_link>
  <g:shipping><g:country>DE</g:country><g:price>4.95 EUR</g:price></g:shipping>
</item>
<item><g:id>cup</g:id><title>Cup</title><g:price>8 EUR</g:price>
  <g:availability>out of stock</g:availability></item>
</channel></rss>"""

ATOM = """<?xml version="1.0"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0">
<title>Shop</title>
<entry><g:id>tea</g:id><title>Assam</title><link href="https://shop.example/tea"/>
<g:price>15.00 EUR</g:price><g:availability>preorder</g:availability></entry></feed>"""


def test_products_of_rss(tmp_path: Path) -> None:
    elements, rejected = converted(write(tmp_path / "feed.xml", RSS))
    assert elements == [
        {
            "item_id": "tea",
            "title": "Assam & more",
            "category": "Drinks > Tea",
            "price": 15,
            "available": True,
            "properties": {
                "currency": "EUR",
                "link": "https://shop.example/tea",
                "brand": "Brown",
                "additional_image_link": ["a.png", "b.png"],
                "shipping.country": "DE",
                "shipping.price": 4.95,
            },
        },
        {
            "item_id": "cup",
            "title": "Cup",
            "price": 8,
            "available": False,
            "properties": {"currency": "EUR"},
        },
    ]
    assert rejected == []


def test_products_of_atom(tmp_path: Path) -> None:
    (element,), _ = converted(write(tmp_path / "feed.xml", ATOM))
    assert element["properties"]["link"] == "https://shop.example/tea"
    assert (element["item_id"], element["available"]) == ("tea", True)


def test_a_feed_with_tabs(tmp_path: Path) -> None:
    text = (
        "id\ttitle\tdescription\tlink\tprice\tavailability\tbrand\n"
        'tea\tAssam\tThe 12" tin\thttps://x/tea\t15.00 USD\tin stock\tBrown\n'
        'cup\t"Best" cup\tBig\thttps://x/cup\t1,008.50 USD\tout_of_stock\tBrown\n'
    )
    elements, _ = converted(write(tmp_path / "feed.txt", text))
    assert [(it["item_id"], it["price"], it["available"]) for it in elements] == [
        ("tea", 15, True),
        ("cup", 1008.5, False),
    ]
    assert elements[0]["properties"]["currency"] == "USD"
    assert elements[0]["properties"]["description"] == 'The 12" tin'


LAUGHS = '<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + RSS.partition("?>")[2]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (LAUGHS, "document type declaration"),
        ('<!DOCTYPE r SYSTEM "file:///etc/passwd">' + RSS.partition("?>")[2], "document type"),
        (RSS[:-60], "no well-formed XML"),
        (RSS.replace("UTF-8", "UTF-99"), "unknown encoding"),
        ("<feed><title>404</title></feed>", "no <item> or <entry>"),
        ("<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        ("<rss><item>" + "<a>" * 20 + "</a>" * 20 + "</item></rss>", "nested too deeply"),
        ("<rss><item><a>" + "x" * 1_100_000 + "</a></item></rss>", "too long"),
    ],
)
def test_hostile_and_damaged_feeds_are_refused(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=problem):
        converted(write(tmp_path / "feed.xml", text))
