"""Days, the largest keys and sums on the page "Statistics", each with its noise."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from tests.ui import sample
from tests.ui.conftest import Open
from tests.ui.reading import descriptions, words
from tests.ui.server import FakePlatform

DAY = timedelta(days=1)


def conclusion(kind: str, **numbers: dict[str, Any]) -> Any:
    about = {"name": "views", "conclusion": kind, "panes": 24, "epsilon": 1, "delta": 0}
    more = {"cap": 5, "unit": "user-day", "method": "m", "confidence": 0.95}

    def answer(query: dict[str, str]) -> dict[str, Any]:
        begin, end = (datetime.fromisoformat(query[name]) for name in ("since", "until"))
        span = {"since": int(begin.timestamp() * 1000), "until": int(end.timestamp() * 1000)}
        days = (end - begin) // DAY
        results = [
            {"key": key, **number, "value": number["value"] * days}
            for key, number in numbers.items()
        ]
        return {**about, **more, **span, "results": results}

    return answer


def test_days_come_first_and_every_number_has_its_noise(
    open_page: Open, fake: FakePlatform
) -> None:
    statistic = sample.report()["statistics"]
    fake.publish_statistic(statistic)
    name = statistic["name"]
    tea = {"value": 40.0, "low": 31.0, "high": 49.0}
    cups = {"value": 20.0, "low": 11.0, "high": 29.0}
    places = {"best": 1, "worst": 2}
    fake.answer(f"/v1/statistics/{name}/sum", conclusion("sum", tea=tea, cups=cups))
    top = conclusion("top", tea={**tea, **places}, cups={**cups, **places})
    fake.answer(f"/v1/statistics/{name}/top", top)
    page = open_page("released")
    assert not page.exception
    largest, sums = page.dataframe[:2]
    assert list(largest.value["Place"]) == ["1–2", "1–2"]
    assert list(sums.value["Released"]) == ["280", "140"], "seven days"
    assert list(sums.value["Low"]) == ["31", "11"]
    assert "tea" in descriptions(page)[0] and "40" in descriptions(page)[0]
    assert "cost no privacy" in words(page)
    asked = len(fake.asked)
    page.selectbox(key=f"day of {name}").set_value("cups").run()
    assert "cups" in descriptions(page)[0]
    concluded = [path for path in fake.asked[asked:] if path.endswith(("/sum", "/top"))]
    assert not concluded, "they are asked once a minute"


def test_a_statistic_that_cannot_be_added_up_is_shown_as_released(
    open_page: Open, fake: FakePlatform
) -> None:
    fake.publish_statistic(sample.report()["statistics"])
    page = open_page("released")
    assert not page.exception and not page.error
    assert "Sums" not in [title.value for title in page.subheader]
