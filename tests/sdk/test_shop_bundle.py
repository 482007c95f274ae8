"""The bundle that an installed package brings along is the one that the sources make."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.service("web")
def test_the_bundle_of_the_demos_shop_is_current(web_client: Path) -> None:
    built = (web_client / "tactful.js").read_text("utf-8")
    code = "".join(
        line for line in built.splitlines(keepends=True) if "sourceMappingURL" not in line
    )
    kept = ROOT / "platform" / "tactful" / "demo" / "shop" / "client" / "tactful.js"
    assert kept.read_text("utf-8") == code, "scripts/web shop bundles it again"
