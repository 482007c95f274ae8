"""The dashboard as a reader gets it: a real Streamlit server in a real browser."""

from pathlib import Path

import pytest
from PIL import Image
from tests.ui import sample
from tests.ui.dashboard_process import dashboard, says
from tests.ui.machine import job, metrics, system
from tests.ui.server import FakePlatform

from benchmarks.browser import browser

pytestmark = [pytest.mark.service("chromium"), pytest.mark.timeout(240)]


@pytest.mark.slow
def test_live_demo_and_dark_charts(fake: FakePlatform, tmp_path: Path, chromium_path: Path) -> None:
    """The page shows a running demo, then the finished one, without a reload."""
    fake.publish(demo=sample.partial("train the ranker", 0.4))
    report = sample.report()
    report["verdict"] += " [click](https://example.org) <i id=planted>x</i>"
    with (
        dashboard(fake.url, tmp_path) as address,
        browser(chromium_path, tmp_path / "profile") as page,
    ):
        page.open(f"{address}/demo", height=2900)
        page.wait_for(says("train the ranker · 40 %"))
        fake.publish(demo=report)
        page.wait_for(says("0.412 [0.397, 0.427]"))
        page.wait_for("document.querySelectorAll('.marks').length == 9")
        page.wait_for(f"!{says('train the ranker · 40 %')}")
        page.wait_for(says("beats every baseline"))
        page.wait_for(says("[click](https://example.org) <i id=planted>x</i>"))
        assert page.evaluate("document.querySelector('#planted') === null")
        described = page.evaluate(
            "[...document.querySelectorAll('[aria-label]')].map(it => it.ariaLabel)"
        )
        assert [label for label in described if label and "Own frequency 0.355" in label]
        light = tmp_path / "light.png"
        page.screenshot(light)
        assert_drawn(light, (1400, 2900), background=(255, 255, 255), mark=(0x00, 0x72, 0xB2))
        fake.publish_statistic(sample.report()["statistics"])
        page.open(f"{address}/statistics", height=1300, dark=True)
        page.wait_for(says("in 95 of 100 cases"))
        page.wait_for("document.querySelectorAll('.marks').length == 3")
        dark = tmp_path / "dark.png"
        page.screenshot(dark)
        background = read(dark).getpixel((1390, 600))
        assert isinstance(background, tuple) and max(background) < 64
        assert_drawn(dark, (1400, 1300), background=background, mark=(0x56, 0xB4, 0xE9))
        fake.answer("/v1/system", system())
        fake.answer("/v1/metrics", metrics)
        fake.answer("/v1/jobs", {"jobs": [job("training", "running")], "next_cursor": None})
        page.open(f"{address}/operations", height=2200)
        page.wait_for(says("All checks pass"))
        page.wait_for("document.querySelectorAll('.marks').length == 3")


def read(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def assert_drawn(
    path: Path, size: tuple[int, int], *, background: tuple[int, ...], mark: tuple[int, int, int]
) -> None:
    """The picture is neither blank nor covered, and charts are drawn in their colour."""
    picture = read(path)
    assert picture.size == size
    colours = {colour: n for n, colour in picture.getcolors(maxcolors=2**24) or []}
    pixels = size[0] * size[1]
    assert len(colours) > 100
    assert 0.4 * pixels < colours[background[0], background[1], background[2]] < 0.995 * pixels
    assert colours.get(mark, 0) > 500
