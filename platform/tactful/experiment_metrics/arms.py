"""Find the arms of an experiment, wherever it is defined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tactful.experiment_metrics.released_readout import experiment_shares
from tactful.flags.definitions import read_definitions
from tactful.flags.store import FlagStore

_VERSIONS = 100  # versions of the flags in which an ended experiment is looked for


def known_arms(experiments: Path, flags: FlagStore) -> Callable[[str], Mapping[str, float]]:
    """Return a function that returns the share of each arm of an experiment, the control first.

    It looks in `experiments.yaml`, then in the flags, whose latest version with the experiment
    counts. Nothing is returned for an unknown experiment.

    Args:
        experiments: file of the experiments.
        flags: stored versions of the flags.
    """
    defined = experiment_shares(experiments)

    def shares(key: str) -> Mapping[str, float]:
        return defined(key) or _in_flags(flags, key)

    return shares


def _in_flags(flags: FlagStore, key: str) -> Mapping[str, float]:
    seen: set[str] = set()
    for version in flags.recent(_VERSIONS):
        if version.definitions in seen:
            continue
        seen.add(version.definitions)
        for flag in read_definitions(version.definitions, version.file).flags.values():
            for rule in flag.rules:
                if rule.experiment is not None and rule.experiment.design.key == key:
                    design = rule.experiment.design
                    return {arm: share for arm, share in design.shares.items() if share > 0}
    return {}
