"""What a reader of an AppTest page sees."""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow.ipc
from streamlit.testing.v1 import AppTest


def words(page: AppTest) -> str:
    """All text on the page, one element a line, Markdown's escapes taken away."""
    kinds = "title header subheader caption markdown info success warning error code"
    said = [str(element.value) for kind in kinds.split() for element in getattr(page, kind)]
    said += [f"{metric.label}: {metric.value} {metric.delta}" for metric in page.metric]
    said += [table.value.to_string() for table in page.table]
    return re.sub(r"\\(?=[^A-Za-z0-9\s])", "", "\n".join(said))


def charts(page: AppTest) -> list[dict[str, Any]]:
    """The Vega-Lite specifications of all charts on the page."""
    return [json.loads(element.proto.spec) for element in _charts(page)]


def descriptions(page: AppTest) -> list[str]:
    """What a screen reader says of each chart."""
    return [str(chart.get("description", "")) for chart in charts(page)]


def drawn(page: AppTest) -> list[dict[str, Any]]:
    """The data of all charts on the page, as Streamlit sends it: Arrow beside the specification."""
    return [
        row
        for element in _charts(page)
        for dataset in element.proto.datasets
        for row in pyarrow.ipc.open_stream(dataset.data.data).read_pandas().to_dict("records")
    ]


def rows(chart: dict[str, Any]) -> list[dict[str, Any]]:
    """The data of all layers of a Vega-Lite specification."""
    found: list[dict[str, Any]] = []
    for part in [chart, *chart.get("layer", [])]:
        found += part.get("data", {}).get("values", [])
    for values in chart.get("datasets", {}).values():
        found += values
    return found


def _charts(page: AppTest) -> list[Any]:
    return [*page.get("vega_lite_chart"), *page.get("arrow_vega_lite_chart")]
