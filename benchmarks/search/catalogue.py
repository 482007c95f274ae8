"""Items to search: real titles, a large made-up shop of their words, and Chinese titles."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import pyarrow.parquet as pq

from benchmarks.shared import product_texts, retail_path
from tactful_streaming.contract.log_entries import Item

_WORD = re.compile(r"\w+")
_PARTS = {
    "colour": "红色 黑色 白色 蓝色 绿色 棕色 粉色 灰色 金色 紫色",
    "style": "女士 男士 儿童 复古 时尚 运动 休闲 户外 商务 防水",
    "material": "真皮 纯棉 羊毛 丝绸 亚麻 陶瓷 玻璃 竹制 不锈钢 塑料",
    "goods": "皮鞋 凉鞋 高跟鞋 手提包 背包 衬衫 毛衣 围巾 手套 茶壶 咖啡杯 台灯 雨伞 耳机 手表",
}


@dataclass(frozen=True)
class Titles:
    """Titles of products, with their category where it is known, and words of descriptions."""

    titles: list[tuple[str, str | None]]
    described: list[str]


def load() -> Titles:
    """Read the titles of `product_text` and `online_retail`, each once."""
    products = pq.read_table(product_texts())
    lines = pq.read_table(retail_path(), columns=["description"])
    titles: dict[str, str | None] = {}
    described: list[str] = []
    for row in products.to_pylist():
        titles.setdefault(row["name"].strip(), row["category"])
        described += _WORD.findall(row["description"])
    for text in sorted({text.strip() for text in lines["description"].to_pylist() if text}):
        if len(_WORD.findall(text)) >= 2:
            titles.setdefault(text, None)
    return Titles([*titles.items()], described)


def shop(count: int, source: Titles, seed: int = 1) -> list[Item]:
    """Make items whose titles have three to six of the words of real ones."""
    rng = random.Random(seed)
    words = [word for title, _ in source.titles for word in _WORD.findall(title)]
    categories = sorted({category for _, category in source.titles if category})
    return [
        Item(
            item_id=f"sku-{number}",
            timestamp=1_700_000_000_000,
            title=" ".join(rng.choices(words, k=rng.randint(3, 6))),
            category=rng.choice(categories),
            price=round(rng.lognormvariate(3, 1), 2),
            properties={
                "description": " ".join(rng.choices(source.described, k=30)),
                "brand": f"brand {rng.randrange(200)}",
            },
        )
        for number in range(count)
    ]


def real(source: Titles) -> list[Item]:
    """Return an item for each real title, without a description."""
    return [
        Item(item_id=f"t{number}", timestamp=0, title=title, category=category)
        for number, (title, category) in enumerate(source.titles)
    ]


def chinese(seed: int = 1, count: int = 1_500) -> tuple[list[Item], list[list[str]]]:
    """Make items with Chinese titles, and the words of each title in order."""
    rng = random.Random(seed)
    combined = {tuple(rng.choice(words.split()) for words in _PARTS.values()) for _ in range(count)}
    words = [[*parts] for parts in sorted(combined)]
    items = [
        Item(item_id=f"c{number}", timestamp=0, title="".join(parts))
        for number, parts in enumerate(words)
    ]
    return items, words
