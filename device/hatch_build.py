"""Select the files of `tactful-device`: those that the wheel of `tactful` leaves out, and more.

The files of `tactful_federated` are listed once, in `exclude` of the wheel in the other
`pyproject.toml`. A source distribution has them at its top, as the wheel has.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PACKAGE = "tactful_federated"
_BUNDLED = f"{_PACKAGE}/bundled/tactful_privacy"


class DeviceBuildHook(BuildHookInterface[Any]):
    """Build hook of hatchling, for the wheel and the source distribution."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to the archive."""
        if version == "editable":
            return
        root = Path(self.root)
        if (root / _PACKAGE).is_dir():  # unpacked from a source distribution
            files = {
                str(path): str(path.relative_to(root)) for path in root.glob(f"{_PACKAGE}/**/*")
            }
        else:
            files = sources(root.parent)
        build_data["force_include"].update(
            {old: new for old, new in files.items() if _is_file(old)}
        )


def sources(checkout: Path) -> dict[str, str]:
    """Return the path in the archive of each source file, by its path in a checkout."""
    whole = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))
    ours = tomllib.loads((checkout / "device" / "pyproject.toml").read_text("utf-8"))
    left_out = whole["tool"]["hatch"]["build"]["targets"]["wheel"]["exclude"]
    files = {f"{checkout}{path}": path.removeprefix("/federated/") for path in left_out}
    privacy = checkout / "privacy" / "tactful_privacy"
    names = ours["tool"]["tactful-device"]["privacy"]
    return files | {str(privacy / name): f"{_BUNDLED}/{name}" for name in names}


def _is_file(path: str) -> bool:
    return Path(path).is_file() and not path.endswith(".pyc")
