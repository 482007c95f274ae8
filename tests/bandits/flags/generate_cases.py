"""Print random conditions and flags with Python's results, for another evaluator to reproduce.

    python -m tests.bandits.flags.generate_cases SEED COUNT > cases.json

```text
conditions   [condition, attributes, groups, whether it holds]
texts        [value, text of it]                                 also the text that is hashed
patterns     [pattern, text, ignores case, whether it is found]
features     {payload, key, attributes, sticky, forced, evaluation}
```

An evaluator agrees if it gives the same for every entry. Texts hold characters outside the basic
plane, lone surrogates, and names that JavaScript's objects have from birth.
"""

import json
import random
import sys
from typing import Any

import msgspec

from tactful_bandits.assignment.conditions import matches
from tactful_bandits.assignment.patterns import search
from tactful_bandits.assignment.texts import as_text
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags import (
    Features,
    Overrides,
    compile_features,
    evaluate,
    load_flags,
    public_payload,
)

TEXTS = [
    *["", "a", "A", "b", "ab", "abc", "5", "5.0", " 5 ", "1e3", "0x10", "-0", "true", "null", "[]"],
    *["1.2.3", "1.10.0", "v1.2.3", "2.0.0-rc.1", "2.0.0-alpha", "2.0.0", "1.2", "2.0.0+x"],
    *["10.1.2.3", "10.0.0.0/8", "2001:db8::1", "2001:db8::/32", "::ffff:10.0.0.1", "1.2.3.4/33"],
    *["2027-01-29", "2027-01-29T13:00:00Z", "2027-01-29T15:00:00+02:00", "2027-02-30", "12:00"],
    *["é", "É", "ß", "İ", "ı", "中文", "😊", "\uffff", "\ud83d", "ſ", "\n", "a\n", "\u2028"],
    *["constructor", "__proto__", "length", "toString"],
]
NUMBERS: list[Any] = [0, 1, -1, 5, 5.5, 1e21, 1e-7, 123456789012, 0.1 + 0.2, 2**53, 1.5e300, 12]
NAMES = ["id", "a", "b", "c", "a.b", "constructor", "toString.name", "国家", "length", "0"]
PATTERNS = ["^a", "b$", "a.c", r"\d+", r"\w", r"\s", r"\bab\b", "[^a]", "(a|b){2}", "é", "i", "."]
COMPARISONS = ["$eq", "$ne", "$lt", "$lte", "$gt", "$gte"]
VERSIONS = ["$veq", "$vne", "$vlt", "$vlte", "$vgt", "$vgte"]
LISTS = ["$in", "$nin", "$ini", "$nini", "$all", "$alli"]
SEARCHES = ["$regex", "$regexi", "$notRegex", "$notRegexi"]
GROUPS = {"g": ["a", 5, "中文", True], "empty": []}


class Cases:
    """Draws cases from one seeded generator."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def scalar(self) -> Any:
        return self.random.choice([self.text, self.text, self.number, self.other])()

    def text(self) -> str:
        return self.random.choice(TEXTS)

    def number(self) -> Any:
        return self.random.choice(NUMBERS)

    def other(self) -> Any:
        return self.random.choice([None, True, False])

    def value(self, depth: int = 2) -> Any:
        kind = self.random.random()
        if depth and kind < 0.2:
            return [self.value(depth - 1) for _ in range(self.random.randrange(4))]
        if depth and kind < 0.3:
            return {self.name(): self.value(depth - 1) for _ in range(self.random.randrange(3))}
        return self.scalar()

    def name(self) -> str:
        return self.random.choice(NAMES).split(".")[0]

    def attributes(self) -> dict[str, Any]:
        drawn = {self.name(): self.value() for _ in range(self.random.randrange(1, 6))}
        if self.random.random() < 0.9:
            drawn["id"] = self.random.choice([f"u-{self.random.randrange(10**6)}", self.scalar()])
        return drawn

    def condition(self, depth: int = 2) -> dict[str, Any]:
        kind = self.random.random()
        if depth and kind < 0.3:
            name = self.random.choice(["$and", "$or", "$nor"])
            return {name: [self.condition(depth - 1) for _ in range(self.random.randrange(4))]}
        if depth and kind < 0.4:
            return {"$not": self.condition(depth - 1)}
        count = self.random.choice([0, 1, 1, 1, 2])
        return {self.random.choice(NAMES): self.requirement(depth) for _ in range(count)}

    def requirement(self, depth: int) -> Any:
        if self.random.random() < 0.2:
            return self.value(1)
        return dict(self.operator(depth) for _ in range(self.random.choice([1, 1, 1, 2])))

    def operator(self, depth: int) -> tuple[str, Any]:
        kind = self.random.randrange(10 if depth else 7)
        if kind == 0:
            return self.random.choice(COMPARISONS), self.scalar()
        if kind == 1:
            return self.random.choice(VERSIONS), self.text()
        if kind == 2:
            return self.random.choice(LISTS), [self.scalar() for _ in range(3)]
        if kind == 3:
            return self.random.choice(SEARCHES), self.random.choice(PATTERNS)
        if kind == 4:
            return self.random.choice(
                [
                    ("$exists", self.scalar()),
                    ("$type", self.random.choice(["string", "number", "null", "array", "object"])),
                    ("$inGroup", self.random.choice(["g", "empty", "toString"])),
                    ("$notInGroup", self.random.choice(["g", "empty", "none"])),
                    ("$unknown", 1),
                ]
            )
        if kind == 5:
            return self.random.choice(["$number", "$date", "$semver"]), {
                self.random.choice(COMPARISONS): self.scalar()
            }
        if kind == 6:
            return "$cidr", [self.text() for _ in range(3)]
        if kind == 7:
            return "$not", self.requirement(depth - 1)
        if kind == 8:
            return "$size", self.random.choice([0, 1, 2, {"$gt": 1}])
        return "$elemMatch", self.random.choice(
            [self.requirement(depth - 1), self.condition(depth - 1)]
        )

    def definitions(self) -> dict[str, Any]:
        flags: dict[str, Any] = {}
        for index in range(self.random.randrange(1, 4)):
            rules = [self.rule(index, number) for number in range(self.random.randrange(1, 4))]
            flags[f"f{index}"] = {
                "kind": "json",
                "variants": {"x": self.value(), "y": self.value(), "z": "z"},
                "default": "x",
                "enabled": self.random.random() < 0.95,
                "rules": rules,
                **({"holdout": "h"} if self.random.random() < 0.3 else {}),
                **(
                    {"prerequisites": [{"flag": f"f{index - 1}", "when": self.parent()}]}
                    if index and self.random.random() < 0.4
                    else {}
                ),
            }
        return {
            "groups": {"g": GROUPS["g"]},
            "public_attributes": ["a"],
            "holdouts": {"h": {"share": 0.2}},
            "flags": flags,
        }

    def parent(self) -> dict[str, Any]:
        return {"value": {self.random.choice(["$in", "$nin"]): ["z", self.scalar()]}}

    def rule(self, flag: int, number: int) -> dict[str, Any]:
        when = self.condition(1) if self.random.random() < 0.6 else {}
        unit = self.random.choice(["id", "id", "a"])
        if self.random.random() < 0.4:
            share = self.random.choice([1, 0.5, 0.01])
            return {"when": when, "serve": self.random.choice("xyz"), "share": share, "unit": unit}
        sticky = self.random.random() < 0.5
        experiment = {
            "key": f"e{flag}-{number}",
            "arms": self.random.choice(
                [
                    ["x", "y"],
                    ["x", "y", "z"],
                    [
                        {"variant": "x", "weight": 0.9, "name": "control"},
                        {"variant": "y", "weight": 0.1},
                    ],
                ]
            ),
            "coverage": self.random.choice([1, 1, 0.5, 0]),
            "unit": unit,
            "sticky": sticky,
            **({"version": 2, "oldest_version": self.random.choice([0, 1])} if sticky else {}),
        }
        if sticky and self.random.random() < 0.5:
            experiment["fallback_unit"] = "b"
        elif self.random.random() < 0.3:
            experiment["namespace"] = {"name": f"n{flag}{number}", "start": 0.1, "end": 0.8}
        return {"when": when, "experiment": experiment}

    def feature(self) -> dict[str, Any] | None:
        try:
            flags = load_flags(self.definitions())
        except DefinitionError:
            return None  # a random condition that definitions refuse
        if self.random.random() < 0.5:
            payload = public_payload(flags, f"salt-{self.random.randrange(9)}")
        else:
            payload = compile_features(flags)
        key = self.random.choice(list(flags.flags))
        attributes, sticky = self.attributes(), None
        if self.random.random() < 0.6:
            unit = as_text(attributes.get("id"))
            arm = self.random.choice(["x", "y", "control", "gone"])
            version = self.random.choice([0, 2])
            sticky = {f"id||{unit}": {f"e{key[1:]}-{rule}__{version}": arm for rule in range(3)}}
        forced = {f"e{key[1:]}-0": 1} if self.random.random() < 0.1 else {}
        result = evaluate(
            Features.from_payload(payload),
            key,
            attributes,
            sticky=sticky,
            overrides=Overrides(forced=forced),
        )
        return {
            "payload": payload,
            "key": key,
            "attributes": attributes,
            "sticky": sticky,
            "forced": forced,
            "evaluation": msgspec.to_builtins(result),
        }


def generate(seed: int, count: int) -> dict[str, list[Any]]:
    """Return `count` cases of each kind; the same seed gives the same cases."""
    cases = Cases(seed)
    conditions = []
    for _ in range(count):
        condition, attributes = cases.condition(), cases.attributes()
        conditions.append([condition, attributes, GROUPS, matches(condition, attributes, GROUPS)])
    values = [cases.value() for _ in range(count)]
    patterns = []
    for _ in range(count):
        pattern, text = cases.random.choice(PATTERNS), cases.text()
        ignores = cases.random.random() < 0.5
        patterns.append([pattern, text, ignores, search(pattern, text, ignore_case=ignores)])
    features: list[Any] = []
    while len(features) < count:
        feature = cases.feature()
        if feature is not None:
            features.append(feature)
    return {
        "conditions": conditions,
        "texts": [[value, as_text(value)] for value in values],
        "patterns": patterns,
        "features": features,
    }


if __name__ == "__main__":
    # ASCII, because a lone surrogate cannot be written as UTF-8.
    json.dump(generate(int(sys.argv[1]), int(sys.argv[2])), sys.stdout, ensure_ascii=True)
