"""Random conditions, features, attributes and kept arms, with values that languages differ in."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, ClassVar

NAMES = ["id", "country", "age", "plan", "tags", "user", "version", "ip", "at", "#plan", "键"]
TEXTS = [
    "",
    "0",
    "1",
    "8",
    " 8 ",
    "1e3",
    "0x10",
    "abc",
    "ABC",
    "ß",
    "İstanbul",
    "上海",
    "\U0001f600",
    "￥",
    "a\nb",
    "abc\n",
    "null",
    "true",
    "1.2.3",
    "1.10.0",
    "2.0.0-rc.1",
    "2.0.0-rc.11",
    "v1.2",
    "10.1.2.3",
    "2001:db8::1",
    "::ffff:10.1.2.3",
    "2027-01-29T13:00:00Z",
    "2027-01-29T13:00+02:00",
    "2027-02-30",
    "NaN",
    "Infinity",
    "1_000",
    "constructor",
    "ſ",
]
NUMBERS = [0, 1, 8, -1, 1.5, 0.1, 1e-7, 1e21, 2**53 + 1, 10**25, -0.0, 1801526400000, 100.0]
PATTERNS = [
    "^a",
    "b$",
    "^abc$",
    ".",
    r"\d+",
    r"^\w+$",
    r"\bb\b",
    r"a\sb",
    "[^a-z]",
    "(a|8)+",
    "上",
    "(",
    "^.$",
    r"1\.",
    "",
    r"\S",
]
NETWORKS = ["10.0.0.0/8", "10.1.2.3", "2001:db8::/32", "::/0", "10.0.0.0/33", "10.0.0", "x/8"]
SIGNS = ["$eq", "$ne", "$lt", "$lte", "$gt", "$gte"]


class RandomFlags:
    """Draws everything from one generator, so that a seed names a case."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def scalar(self) -> Any:
        pick = self.random.random()
        if pick < 0.5:
            return self.random.choice(TEXTS)
        if pick < 0.8:
            return self.random.choice(NUMBERS)
        return self.random.choice([True, False, None])

    def value(self, depth: int = 2) -> Any:
        pick = self.random.random()
        if depth == 0 or pick < 0.75:
            return self.scalar()
        if pick < 0.9:
            return self.many(lambda: self.value(depth - 1))
        return {name: self.value(depth - 1) for name in self.random.sample(["a", "b", "c"], 2)}

    def many(self, draw: Callable[[], Any]) -> list[Any]:
        return [draw() for _ in range(self.random.randrange(4))]

    def attributes(self) -> dict[str, Any]:
        names = self.random.sample(NAMES, self.random.randrange(len(NAMES)))
        found = {name: self.value() for name in names}
        if self.random.random() < 0.8:
            found["id"] = f"u-{self.random.randrange(10_000)}"
        return found

    def path(self) -> str:
        name = self.random.choice(NAMES)
        return f"{name}.{self.random.choice('abc')}" if self.random.random() < 0.2 else name

    def condition(self, depth: int = 2) -> dict[str, Any]:
        count = self.random.choice([0, 1, 1, 1, 2])
        return dict(self.part(depth) for _ in range(count))

    def part(self, depth: int) -> tuple[str, Any]:
        if depth > 0 and self.random.random() < 0.25:
            name = self.random.choice(["$and", "$or", "$nor", "$not"])
            deeper = self.condition(depth - 1)
            return name, deeper if name == "$not" else self.many(lambda: self.condition(depth - 1))
        requirement = self.value() if self.random.random() < 0.3 else self.operators(depth)
        return self.path(), requirement

    def operators(self, depth: int) -> dict[str, Any]:
        names = self.random.sample(sorted(self.operands), self.random.choice([1, 1, 1, 2]))
        return {name: self.operands[name](self, depth) for name in names}

    def typed(self, depth: int) -> Any:
        names = self.random.sample(SIGNS, self.random.choice([0, 1, 1, 2]))
        return {name: self.scalar() for name in names}

    def nested(self, depth: int) -> Any:
        if depth == 0:
            return self.value()
        return self.operators(depth - 1) if self.random.random() < 0.6 else self.value()

    def element(self, depth: int) -> Any:
        if depth > 0 and self.random.random() < 0.5:
            return self.condition(depth - 1)
        return self.nested(depth)

    operands: ClassVar[dict[str, Callable[[RandomFlags, int], Any]]] = {
        **dict.fromkeys(SIGNS, lambda self, depth: self.value()),
        **dict.fromkeys(
            ["$veq", "$vne", "$vlt", "$vlte", "$vgt", "$vgte"], lambda self, depth: self.scalar()
        ),
        **dict.fromkeys(
            ["$in", "$nin", "$ini", "$nini", "$all", "$alli"],
            lambda self, depth: self.many(self.value),
        ),
        **dict.fromkeys(
            ["$regex", "$regexi", "$notRegex", "$notRegexi"],
            lambda self, depth: self.random.choice(PATTERNS),
        ),
        **dict.fromkeys(["$number", "$date", "$semver"], typed),
        "$cidr": lambda self, depth: self.many(lambda: self.random.choice(NETWORKS)),
        "$exists": lambda self, depth: self.scalar(),
        "$size": lambda self, depth: self.random.choice([0, 1, 2, {"$gt": 1}]),
        "$type": lambda self, depth: self.random.choice(["string", "number", "null", "array"]),
        "$not": nested,
        "$elemMatch": element,
        "$inGroup": lambda self, depth: self.random.choice(["g", "h", "toString"]),
        "$notInGroup": lambda self, depth: self.random.choice(["g", "h", "toString"]),
        "$unknown": lambda self, depth: 1,
    }

    def payload(self) -> dict[str, Any]:
        """Five features that may depend on each other, groups, and hashed attributes."""
        keys = ["a", "b", "c", "上海", "toString"]
        return {
            "version": 1,
            "hashed": {"salt": "s", "attributes": ["plan", "tags"]},
            "features": {key: self.feature(keys) for key in keys},
            "savedGroups": {"g": self.many(self.scalar), "h": self.many(self.scalar)},
        }

    def feature(self, keys: list[str]) -> dict[str, Any]:
        feature: dict[str, Any] = {"rules": self.many(lambda: self.rule(keys))}
        if self.random.random() < 0.9:
            feature["defaultValue"] = self.value()
        if self.random.random() < 0.05:
            feature[self.random.choice(["remote", "off"])] = True
        return feature

    def rule(self, keys: list[str]) -> dict[str, Any]:
        rule = self.draw()
        if self.random.random() < 0.3:
            rule["force"] = self.value()
        elif self.random.random() < 0.95:
            arms = self.random.choice([1, 2, 2, 3])
            rule["variations"] = [self.value() for _ in range(arms)]
            self.maybe(rule, "weights", lambda: self.weights(arms))
            self.maybe(rule, "meta", lambda: self.meta(arms))
            self.maybe(rule, "ranges", lambda: [self.interval() for _ in range(arms)])
            self.maybe(rule, "key", lambda: self.random.choice(["e", "f"]))
            self.maybe(rule, "namespace", lambda: ["n", *self.interval()])
            self.maybe(rule, "minBucketVersion", lambda: self.random.randrange(2))
            self.maybe(rule, "bucketVersion", lambda: self.random.randrange(2))
            self.maybe(rule, "disableStickyBucketing", lambda: True)
        self.maybe(rule, "range", self.interval)
        self.maybe(rule, "id", lambda: "rule")
        self.maybe(rule, "condition", self.condition, 0.5)
        self.maybe(rule, "filters", lambda: [self.filter()])
        self.maybe(rule, "parentConditions", lambda: [self.parent(keys)])
        return rule

    def draw(self) -> dict[str, Any]:
        draw: dict[str, Any] = {}
        self.maybe(draw, "coverage", lambda: self.random.choice([0, 0.3, 0.5, 1, 2, -1]), 0.5)
        self.maybe(draw, "seed", lambda: self.random.choice(["", "s", "种子", "\U0001f600"]))
        self.maybe(draw, "hashVersion", lambda: self.random.choice([1, 2, 2, 2, 3]), 0.8)
        self.maybe(draw, "hashAttribute", lambda: self.random.choice(NAMES))
        self.maybe(draw, "fallbackAttribute", lambda: self.random.choice(["age", "id"]))
        return draw

    def filter(self) -> dict[str, Any]:
        found: dict[str, Any] = {"seed": "f", "ranges": [self.interval(), self.interval()]}
        self.maybe(found, "attribute", lambda: self.random.choice(NAMES))
        self.maybe(found, "hashVersion", lambda: self.random.choice([1, 2]))
        return found

    def parent(self, keys: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = {"id": self.random.choice([*keys, "none"])}
        part: Any = self.operators(1) if self.random.random() < 0.5 else self.value()
        self.maybe(found, "condition", lambda: {"value": part}, 0.9)
        self.maybe(found, "gate", lambda: True)
        return found

    def weights(self, arms: int) -> list[float]:
        drawn = [self.random.random() for _ in range(arms)]
        return [each / sum(drawn) for each in drawn] if self.random.random() < 0.8 else drawn

    def meta(self, arms: int) -> list[dict[str, Any]]:
        return [
            {"key": f"k{arm}", "passthrough": self.random.random() < 0.2} for arm in range(arms)
        ]

    def interval(self) -> list[float]:
        return sorted([round(self.random.random(), 2), round(self.random.random(), 2)])

    def sticky(self, attributes: dict[str, Any]) -> dict[str, dict[str, str]]:
        """Arms of the unit as ``{document: {experiment__version: arm}}``."""
        found = {}
        for name in ("id", "age"):
            if isinstance(attributes.get(name), str) and self.random.random() < 0.6:
                names = self.random.sample(["e__0", "e__1", "f__0", "a__0", "b__0"], 2)
                arms = {each: self.random.choice(["0", "1", "k0", "k1"]) for each in names}
                found[f"{name}||{attributes[name]}"] = arms
        return found

    def maybe(
        self, target: dict[str, Any], name: str, draw: Callable[[], Any], chance: float = 0.2
    ) -> None:
        if self.random.random() < chance:
            target[name] = draw()
