"""Takes the picture of the shop that README.md shows. Usage: picture.py CHROMIUM FILE"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.platform.demo.shop.shop_process import open_shop

from benchmarks.browser import browser

_STEPS = """
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
document.getElementById("consent-button").click();
await pause(800);
for (const place of [2, 4, 5]) {
  document.querySelector(`#latest li:nth-child(${place}) .open`).click();
  await pause(800);
  document.querySelector("#item .close").click();
}
document.activeElement.blur();
await pause(1500);
"""


def take(chromium: Path, to: Path) -> None:
    """Open a shop, click in it as a visitor, and write what its page looks like then."""
    with (
        TemporaryDirectory() as folder,
        open_shop(Path(folder) / "data") as (_, address),
        browser(chromium, Path(folder) / "profile") as page,
    ):
        page.open(address, width=1280, height=860)
        page.wait_for("!!document.querySelector('#list li')")
        page.run(_STEPS)
        page.screenshot(to)


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
