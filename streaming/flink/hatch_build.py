"""Add the compiled jar to a wheel, if `TACTFUL_FLINK_JAR` names one; `scripts/release` does so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PACKED = "tactful_streaming/flink/tactful-flink.jar"


class FlinkBuildHook(BuildHookInterface[Any]):
    """Build hook of hatchling, for the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the jar to the archive."""
        jar = os.environ.get("TACTFUL_FLINK_JAR", "")
        if version == "editable" or not jar:
            return
        if not Path(jar).is_file():
            raise FileNotFoundError(f"TACTFUL_FLINK_JAR: {jar} is no file")
        build_data["force_include"][str(Path(jar).resolve())] = _PACKED
