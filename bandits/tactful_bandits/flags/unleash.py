"""Reader of Unleash's format: toggles, strategies, constraints, segments, dependencies, variants.

A toggle without variants becomes a boolean flag. One with variants becomes a JSON flag whose values
are Unleash's variant objects (`name`, `enabled`, `feature_enabled`, `payload`). Attributes have the
names of Unleash's context: `userId`, `sessionId`, `remoteAddress`, `currentTime`, properties.

Draws use another hash than Unleash's, so people are drawn anew; a note says so. Strategies other
than `default`, `userWithId`, `flexibleRollout` and the gradual rollouts by user and session are
refused by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags.conversion import Conversion, Refusal, Variants, finish
from tactful_bandits.flags.unleash_constraints import Never, convert_constraint

_DISABLED = {"name": "disabled", "enabled": False, "feature_enabled": False}
_WITHOUT_VARIANT = {**_DISABLED, "feature_enabled": True}
_GRADUAL = {"gradualRolloutUserId": "userId", "gradualRolloutSessionId": "sessionId"}
_ANEW = "people are drawn anew: Unleash's hash is another"


def read_unleash(data: Mapping[str, Any]) -> Conversion:
    """Convert the toggles of an Unleash server.

    Args:
        data: Answer of Unleash's client API, or a case of its client specification: `features` and
            `segments`, possibly within `state`.

    Raises:
        DefinitionError: It is neither.
    """
    state = data.get("state", data) if isinstance(data, Mapping) else None
    features = state.get("features") if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or not isinstance(features, list):
        raise DefinitionError(
            "not Unleash's format: features is missing; export with GET /api/client/features"
        )
    try:
        segments = {part["id"]: part.get("constraints", ()) for part in state.get("segments") or ()}
        toggles = {str(toggle["name"]): toggle for toggle in features}
    except (AttributeError, LookupError, TypeError) as error:
        raise DefinitionError(f"not Unleash's format: {error}; export again") from error
    flags, refused, notes = {}, {}, {}
    for name, toggle in toggles.items():
        reader = _Toggle(toggle, toggles, segments)
        try:
            flags[name] = reader.flag()
        except Refusal as error:
            refused[name] = str(error)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            refused[name] = f"not in Unleash's format: {error}"
        if reader.notes:
            notes[name] = reader.notes
    return finish(flags, {}, refused, notes)


@dataclass(slots=True)
class _Toggle:
    """Converts one toggle."""

    toggle: Mapping[str, Any]
    toggles: Mapping[str, Mapping[str, Any]]
    segments: Mapping[Any, Sequence[Mapping[str, Any]]]
    notes: list[str] = field(default_factory=list)
    variants: Variants = field(default_factory=lambda: Variants({}))
    experiments: int = 0  # number of experiments so far

    def flag(self) -> dict[str, Any]:
        flag: dict[str, Any] = {}
        if self.toggle.get("description"):
            flag["description"] = str(self.toggle["description"])
        has_variants = _has_variants(self.toggle)
        if has_variants:
            self.variants.values.update(disabled=_DISABLED, enabled=_WITHOUT_VARIANT)
            flag |= {"kind": "json", "variants": self.variants.values, "default": "disabled"}
        else:
            flag["default"] = False
        strategies = self.toggle.get("strategies") or [{"name": "default"}]
        rules = [rule for strategy in strategies for rule in self._strategy(strategy, has_variants)]
        enabled = bool(self.toggle.get("enabled"))
        try:
            needs = [self._need(entry) for entry in self.toggle.get("dependencies") or ()]
        except Never as error:
            self.notes.append(f"never enabled: {error}")
            needs, enabled = [], False
        if not enabled:
            flag["enabled"] = False
        if needs:
            flag["prerequisites"] = needs
        if rules:
            flag["rules"] = rules
        return flag

    def _need(self, dependency: Mapping[str, Any]) -> dict[str, Any]:
        name = dependency["feature"]
        parent = self.toggles.get(name)
        if parent is None:
            raise Never(f"there is no toggle {name!r}")
        if parent.get("dependencies"):
            raise Never(f"{name!r} has dependencies itself, which Unleash does not follow")
        wanted = dependency.get("variants") or []
        on = dependency.get("enabled", True)
        if not _has_variants(parent):
            if wanted and "disabled" not in wanted:
                raise Never(f"{name!r} has none of the variants {wanted}")
            return {"flag": name, "when": {"value": bool(on)}}
        condition: dict[str, Any] = {"value.feature_enabled": bool(on)}
        if wanted:
            condition["value.name"] = {"$in": list(wanted)}
        return {"flag": name, "when": condition}

    def _strategy(self, strategy: Mapping[str, Any], has_variants: bool) -> list[dict[str, Any]]:
        name, parameters = strategy.get("name"), strategy.get("parameters") or {}
        share, unit = self._reach(str(name), parameters)
        try:
            conditions = self._conditions(strategy)
        except Never as error:
            self.notes.append(f"a strategy {name!r} is left out, for it never holds: {error}")
            return []
        if name == "userWithId":
            users = [user.strip() for user in str(parameters.get("userIds", "")).split(",")]
            conditions.append({"userId": {"$in": [user for user in users if user]}})
        rule: dict[str, Any] = {"when": _both(conditions)} if conditions else {}
        seed = str(parameters.get("groupId") or self.toggle["name"])
        drawn = {"share": share, "unit": unit, "seed": seed} if share < 1 else {}
        if not has_variants:
            return [{**rule, "serve": True, **drawn}]
        variants = strategy.get("variants") or self.toggle.get("variants") or ()
        return self._variant_rules(rule, conditions, variants, drawn)

    def _reach(self, name: str, parameters: Mapping[str, Any]) -> tuple[float, str]:
        """Return the share of the units that a strategy reaches, and their attribute."""
        if name in ("default", "userWithId"):
            return 1.0, "userId"
        if name == "flexibleRollout":
            unit = _stickiness(parameters.get("stickiness"))
            percentage = parameters.get("rollout", 100)
        elif name in _GRADUAL:
            unit, percentage = _GRADUAL[name], parameters.get("percentage", 100)
        else:
            raise Refusal(
                f"strategy {name!r} is Unleash's own; use default or flexibleRollout with "
                "constraints (IN_CIDR for addresses), or define the flag by hand"
            )
        share = min(max(float(percentage) / 100, 0.0), 1.0)
        if share < 1:
            if unit == "random":
                raise Refusal("a random stickiness draws at every request; choose an attribute")
            self.notes.append(_ANEW)
        return share, unit

    def _conditions(self, strategy: Mapping[str, Any]) -> list[dict[str, Any]]:
        constraints = list(strategy.get("constraints") or ())
        for number in strategy.get("segments") or ():
            if number not in self.segments:
                raise Never(f"there is no segment {number}")
            constraints += self.segments[number]
        return [convert_constraint(constraint) for constraint in constraints]

    def _variant_rules(
        self,
        rule: dict[str, Any],
        conditions: list[dict[str, Any]],
        variants: Sequence[Mapping[str, Any]],
        drawn: dict[str, Any],
    ) -> list[dict[str, Any]]:
        served = [variant for variant in variants if variant.get("weight", 0) > 0]
        if len(served) < 2:
            name = self._variant(served[0]) if served else "enabled"
            return [{**rule, "serve": name, **drawn}]
        rules = []
        for variant in served:
            for override in variant.get("overrides") or ():
                own = [*conditions, {override["contextName"]: {"$in": list(override["values"])}}]
                rules.append({"when": _both(own), "serve": self._variant(variant), **drawn})
        total = sum(variant["weight"] for variant in served)
        unit = _stickiness(served[0].get("stickiness"))
        if drawn and drawn["unit"] != unit:
            raise Refusal(
                f"the rollout draws {drawn['unit']!r} and its variants {unit!r}; use one stickiness"
            )
        if unit == "random":
            raise Refusal("a random stickiness draws at every request; choose an attribute")
        arms = [
            {
                "variant": self._variant(variant),
                "name": variant["name"],
                "weight": variant["weight"] / total,
            }
            for variant in served
        ]
        self.experiments += 1
        key = str(self.toggle["name"])
        if self.experiments > 1:
            key = f"{key}-{self.experiments}"
        experiment = {
            "key": key,
            "unit": unit,
            "coverage": drawn.get("share", 1.0),
            "arms": arms,
        }
        self.notes.append(_ANEW)
        rules.append({**rule, "experiment": experiment})
        if not drawn:  # a unit without the attribute has no variant, but the toggle is on
            rules.append({**rule, "serve": "enabled"})
        return rules

    def _variant(self, variant: Mapping[str, Any]) -> str:
        value = {"name": variant["name"], "enabled": True, "feature_enabled": True}
        if "payload" in variant:
            value["payload"] = dict(variant["payload"])
        return self.variants.name(str(variant["name"]), value)


def _has_variants(toggle: Mapping[str, Any]) -> bool:
    return bool(toggle.get("variants")) or any(
        strategy.get("variants") for strategy in toggle.get("strategies") or ()
    )


def _stickiness(name: str | None) -> str:
    return "userId" if name in (None, "", "default") else str(name)


def _both(conditions: list[dict[str, Any]]) -> dict[str, Any]:
    return conditions[0] if len(conditions) == 1 else {"$and": conditions}
