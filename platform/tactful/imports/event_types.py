"""Words that files use for the types of events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tactful.imports.names import normal
from tactful_streaming.contract.decode_requests import CUSTOM_TYPE, EVENT_TYPES

_WORDS: Mapping[str, str] = {
    "view": """
        view views viewed pv pageview page_view product_view product_viewed item_view view_item
        detail detail_view detail_page_view visit browse show see seen play
        ansicht aufruf angesehen gesehen 浏览 查看 点播 vista vue""",
    "click": "click clicks clicked tap klick klicks geklickt 点击 clic",
    "search": "search searched query suche gesucht 搜索",
    "add_to_cart": """
        add_to_cart cart carts added_to_cart product_added add_cart cart_add basket
        add_to_basket atc warenkorb in_den_warenkorb 加购 加购物车 加入购物车 购物车
        carrito panier""",
    "remove_from_cart": """
        remove_from_cart removed_from_cart product_removed cart_remove remove_cart delete_from_cart
        移除购物车""",
    "purchase": """
        purchase purchases purchased order orders ordered order_completed transaction transactions
        buy bought sale sold conversion checkout_completed kauf käufe gekauft bestellung bestellt
        购买 下单 成交 订单 compra achat""",
    "payment": "payment paid pay zahlung bezahlt 支付 付款",
    "refund": "refund refunded erstattung 退款",
    "return": "return returns returned retoure rückgabe rueckgabe 退货",
    "leave": "leave exit",
    "impression": "impression impressions",
    "exposure": "exposure exposures",
    "rating": "rating rate rated review bewertung bewertet 评分 评价",
    "x.favourite": "fav favorite favourite wishlist add_to_wishlist merkzettel 收藏",
    "x.like": "like liked 点赞",
    "x.share": "share shared 分享",
}
_TYPES = {normal(word): type_ for type_, words in _WORDS.items() for word in words.split()}
_TYPES |= {normal(type_): type_ for type_ in EVENT_TYPES}
_CUSTOM = re.compile(CUSTOM_TYPE)


def is_type(text: str) -> bool:
    """Whether a text is a type of the contract or a custom one."""
    return text in EVENT_TYPES or _CUSTOM.fullmatch(text) is not None


def type_of(word: str) -> str | None:
    """Return the type that a word stands for, or None.

    >>> type_of("addtocart"), type_of("pageview"), type_of("x.print"), type_of("7")
    ('add_to_cart', 'view', 'x.print', None)
    """
    return word if is_type(word) else _TYPES.get(normal(word))


def types_of(words: Iterable[str], given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the type of each word, `given` ones first, and the words that have none."""
    types: dict[str, str] = {}
    unknown = []
    for word in words:
        type_ = given.get(word, given.get(word.casefold())) if given else None
        type_ = type_of(word) if type_ is None else type_
        if type_ is None:
            unknown.append(word)
        else:
            types[word] = type_
    return types, unknown
