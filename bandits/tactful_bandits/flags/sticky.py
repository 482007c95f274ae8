"""Sticky arms: the arm that a unit had before, by the attribute that identified it.

```text
{"id||u-7": {"checkout-2027__0": "control"}}     document of a unit: experiment__version, arm
```
"""

from collections.abc import Mapping
from typing import Any

from tactful_bandits.flags.draws import Draw, unit_text

StickyArms = Mapping[str, Mapping[str, str]]
"""Documents by ``attribute||value``, each with arms by ``experiment__version``."""


def sticky_key(experiment: str, version: int) -> str:
    """Return the key of an experiment's arm within a document."""
    return f"{experiment}__{version}"


def sticky_assignments(
    sticky: StickyArms, draw: Draw, attributes: Mapping[str, Any]
) -> Mapping[str, str]:
    """Return the arms of a unit; those of its hash attribute replace those of the fallback."""
    merged: dict[str, str] = {}
    for attribute in (draw.fallback, draw.attribute):
        text = None if attribute is None else unit_text(attributes.get(attribute))
        if text is not None:
            merged.update(sticky.get(f"{attribute}||{text}", {}))
    return merged
