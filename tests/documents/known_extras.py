"""Check that the extras that ``pip install`` asks for exist."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"\[([\w,-]+)\]", " ".join(sys.argv[1:]))
    unknown = {each for extras in named for each in extras.split(",")}
    unknown -= set(project["optional-dependencies"])
    sys.exit(f"no such extra: {', '.join(sorted(unknown))}" if unknown or not named else 0)
