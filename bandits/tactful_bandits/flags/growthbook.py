"""Reader of GrowthBook's SDK payloads as definitions.

A converted flag gives every unit the value that it had. Flags that definitions cannot express so
are refused with the reason: hash version 1, namespaces of version 1, ranges with gaps, contextual
bandits, passthrough arms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tactful_bandits.assignment.texts import as_json, as_text
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags.conversion import Conversion, Refusal, Variants, finish
from tactful_bandits.flags.draws import DEFAULT_ATTRIBUTE

_ROUNDING = 1e-6


def read_growthbook(data: Mapping[str, Any]) -> Conversion:
    """Convert the features of an SDK payload, ``{"features": {...}, "savedGroups": {...}}``.

    Raises:
        DefinitionError: It is no such payload, or an encrypted one.
    """
    features = data.get("features") if isinstance(data, Mapping) else None
    if isinstance(data, Mapping) and data.get("encryptedFeatures"):
        raise DefinitionError("the payload is encrypted; export it from an unencrypted connection")
    if not isinstance(features, Mapping):
        raise DefinitionError(
            "not GrowthBook's format: features is missing; export with GET /api/features/KEY"
        )
    flags, refused, notes = {}, {}, {}
    for key, feature in features.items():
        reader = _Feature(str(key), feature)
        try:
            flags[str(key)] = reader.flag()
        except Refusal as error:
            refused[str(key)] = str(error)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            refused[str(key)] = f"not in GrowthBook's format: {error}"
        if reader.notes:
            notes[str(key)] = reader.notes
    groups = data.get("savedGroups") or {}
    if not isinstance(groups, Mapping):
        raise DefinitionError("not GrowthBook's format: savedGroups is no mapping")
    return finish(flags, groups, refused, notes)


@dataclass(slots=True)
class _Feature:
    """Converts one feature."""

    key: str
    feature: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)
    variants: Variants = field(default_factory=lambda: Variants({}))

    def flag(self) -> dict[str, Any]:
        rules = self.feature.get("rules") or ()
        values = [self.feature.get("defaultValue")]
        for rule in rules:
            values += [rule["force"]] if "force" in rule else rule.get("variations") or []
        kind = _kind(values)
        flag: dict[str, Any] = {"kind": kind}
        if kind == "boolean":
            self.variants.values.update(on=True, off=False)
        else:
            flag["variants"] = self.variants.values
        flag["default"] = self._variant(values[0])
        converted = []
        for number, rule in enumerate(rules, start=1):
            try:
                gates = self._gates(rule, first=number == 1)
                if gates:
                    flag["prerequisites"] = gates
                converted += self._rule(rule)
            except Refusal as error:
                raise Refusal(f"rule {number}: {error}") from error
        if converted:
            flag["rules"] = converted
        return flag

    def _variant(self, value: Any) -> str:
        if isinstance(value, bool) and self.variants.values.get("on") is True:
            return "on" if value else "off"
        text = as_text(value)
        fits = not isinstance(value, list | Mapping) and text.isprintable() and len(text) <= 40
        return self.variants.name(text if fits and text.strip() == text != "" else "value", value)

    def _gates(self, rule: Mapping[str, Any], *, first: bool) -> list[dict[str, Any]]:
        gates = [need for need in rule.get("parentConditions") or () if need.get("gate")]
        if gates and (not first or "force" in rule or "variations" in rule):
            raise Refusal("a gate after other rules; define it as a prerequisite of the flag")
        if gates:
            self.notes.append("behind a failed gate it serves its default, not null")
        return [*map(_need, gates)]

    def _rule(self, rule: Mapping[str, Any]) -> list[dict[str, Any]]:
        for name in ("contextualVariations", "contextualBanditRef"):
            if name in rule:
                raise Refusal(f"{name}: contextual bandits are not converted")
        converted: dict[str, Any] = {}
        if rule.get("condition"):
            converted["when"] = rule["condition"]
        needs = [need for need in rule.get("parentConditions") or () if not need.get("gate")]
        if needs:
            converted["prerequisites"] = [*map(_need, needs)]
        if "force" in rule:
            return [{**converted, "serve": self._variant(rule["force"]), **self._share(rule)}]
        if len(rule.get("variations") or ()) < 2:
            return []
        return [{**converted, "experiment": self._experiment(rule)}]

    def _share(self, rule: Mapping[str, Any]) -> dict[str, Any]:
        if rule.get("filters"):
            raise Refusal("filters on a forced value; use an experiment in a namespace")
        limits, coverage = rule.get("range"), rule.get("coverage")
        if limits is not None and limits[0] > 0:
            raise Refusal(f"range {limits} does not begin at 0")
        share = coverage if limits is None else limits[1]
        everybody = limits is None and share is not None and share >= 1
        if share is None or (everybody and rule.get("hashVersion", 1) in (1, 2)):
            return {}
        _require_version_2(rule)
        unit = rule.get("hashAttribute") or DEFAULT_ATTRIBUTE
        seed = {"seed": str(rule["seed"])} if rule.get("seed") else {}
        return {"share": share, **({"unit": unit} if unit != DEFAULT_ATTRIBUTE else {}), **seed}

    def _experiment(self, rule: Mapping[str, Any]) -> dict[str, Any]:
        _require_version_2(rule)
        variations = rule["variations"]
        meta = [*(rule.get("meta") or ()), *({} for _ in variations)]
        if any(more.get("passthrough") for more in meta):
            raise Refusal("passthrough arms; define a holdout")
        coverage, weights = _shares(rule, len(variations))
        unit = rule.get("hashAttribute") or DEFAULT_ATTRIBUTE
        experiment: dict[str, Any] = {"key": str(rule.get("key") or self.key)}
        if unit != DEFAULT_ATTRIBUTE:
            experiment["unit"] = unit
        if rule.get("seed"):
            experiment["seed"] = str(rule["seed"])
        if coverage != 1:
            experiment["coverage"] = coverage
        experiment.update(_namespace(rule, unit))
        experiment.update(_sticky(rule))
        experiment["arms"] = [
            {
                "name": str(more.get("key") or index),
                "variant": self._variant(value),
                "weight": weight,
            }
            for index, (value, more, weight) in enumerate(
                zip(variations, meta, weights, strict=False)
            )
        ]
        return experiment


def _need(parent: Mapping[str, Any]) -> dict[str, Any]:
    name = parent["id"]
    if not isinstance(name, str):
        raise Refusal(f"parentConditions: the id of a feature is a text, not {name!r}")
    return {"flag": name, "when": parent.get("condition") or {}}


def _kind(values: Sequence[Any]) -> str:
    if all(isinstance(value, bool) for value in values):
        return "boolean"
    if all(isinstance(value, str) for value in values):
        return "text"
    if any(isinstance(value, bool) for value in values):
        return "json"
    return "number" if all(isinstance(value, int | float) for value in values) else "json"


def _require_version_2(rule: Mapping[str, Any]) -> None:
    version = rule.get("hashVersion") or 1
    if version != 2:
        raise Refusal(
            f"hash version {version} gives correlated arms, and version 2 draws people anew; "
            "define it by hand when the experiment has ended"
        )


def _shares(rule: Mapping[str, Any], arms: int) -> tuple[float, list[float]]:
    """Return coverage and weights of an experiment."""
    ranges = rule.get("ranges")
    if ranges is None:
        coverage = rule.get("coverage")
        weights = rule.get("weights") or [1 / arms] * arms
        return (1.0 if coverage is None else coverage), list(weights)
    starts = [start for start, _ in ranges] + [1.0]
    weights = [after - start for start, after in pairwise(starts)]
    covered = [
        (end - start) / weight if weight > 0 else None
        for (start, end), weight in zip(ranges, weights, strict=True)
    ]
    shares = [share for share in covered if share is not None]
    if starts[0] != 0 or min(weights) < 0 or not shares or len(ranges) != arms:
        raise Refusal(f"ranges {as_json(ranges)} are no weights and coverage")
    if max(shares) - min(shares) > _ROUNDING:
        raise Refusal(f"ranges {as_json(ranges)} cover the arms by different shares")
    return round(min(shares[0], 1.0), 9), [round(weight, 9) for weight in weights]


def _namespace(rule: Mapping[str, Any], unit: str) -> dict[str, Any]:
    filters = rule.get("filters") or ()
    if not filters:
        if rule.get("namespace"):
            raise Refusal("a namespace of hash version 1; end the experiment first")
        return {}
    (first, *others) = filters
    seed = str(first.get("seed", ""))
    simple = not others and seed.startswith("__") and len(first.get("ranges", ())) == 1
    if not simple or first.get("hashVersion", 2) != 2:
        raise Refusal("filters that are no slice of one namespace")
    if (first.get("attribute") or DEFAULT_ATTRIBUTE) != unit:
        raise Refusal("the filter draws another attribute than the experiment")
    ((start, end),) = first["ranges"]
    return {"namespace": {"name": seed[2:], "start": start, "end": end}}


def _sticky(rule: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "fallbackAttribute": "fallback_unit",
        "bucketVersion": "version",
        "minBucketVersion": "oldest_version",
    }
    given = {own: rule[name] for name, own in names.items() if rule.get(name) is not None}
    if not given or rule.get("disableStickyBucketing"):
        return {}
    return {"sticky": True, **given}
