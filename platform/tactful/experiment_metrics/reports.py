"""Write a read-out as a report: one HTML file without scripts, or a notebook."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import msgspec

from tactful.schemas.experiments.readouts import Bounds, Effect, EffectPoint, ReadOutMessage

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}table{border-collapse:collapse;width:100%;font-size:.9rem}"
    "th,td{border-bottom:1px solid #8884;padding:.3rem .5rem;text-align:left}"
    ".fail{color:#b3261e;font-weight:600}svg{width:100%;height:auto}"
    "svg text{fill:currentColor;font:12px system-ui,sans-serif}"
)
_HEAD = (
    *("metric", "role", "arm", "control", "treatment", "difference", "relative"),
    *("any look", "one look", "users", "verdict"),
)
_WIDTH, _ROW, _MARGIN = 640, 26, 200
_COLOURS = {"higher": "#0072B2", "lower": "#D55E00"}
_GREY = "#6F7680"


def html_report(found: ReadOutMessage) -> str:
    """Return a read-out as one HTML file: sample ratio, effects, course by day, segments."""
    ratio = found.sample_ratio
    css = " class=fail" if ratio.verdict == "mismatch" else ""
    people = ", ".join(f"{arm} {count:,}" for arm, count in ratio.people.items())
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'><meta name=robots content=noindex>",
        f"<title>{escape(found.key)}</title><style>{_STYLE}</style><h1>{escape(found.key)}</h1>",
        f"<p>{found.source} numbers of {_time(found.at)}, exposures since {_time(found.since)}"
        f"{'' if found.until is None else f' until {_time(found.until)}'}.</p>",
        f"<p{css}>Sample ratio: {ratio.verdict} ({escape(people)}).</p>",
        *(f"<p>Note: {escape(note)}.</p>" for note in found.notes),
        f"<p>{escape(found.reason)}</p>" if found.reason else "",
    ]
    if found.effects:
        parts += ["<h2>Effects</h2>", _intervals(found.effects)]
        parts.append(_table(_HEAD, map(_row, found.effects)))
    for segment in found.segments:
        kind = "exploratory" if segment.exploratory else "registered before the start"
        parts.append(f"<h2>Segment {escape(segment.segment)} ({kind})</h2>")
        parts.append(_table(_HEAD, map(_row, segment.effects)))
    if found.series:
        parts.append("<h2>Course</h2><p>Effect of the users whose windows were over by then.</p>")
        head = ("until", "metric", "arm", "difference", "any look", "users")
        parts.append(_table(head, map(_point, found.series)))
    if found.guardrails:
        parts.append("<h2>Guardrails</h2>")
        judged = [
            [_time(it.at), it.metric, it.verdict, f"{it.margin:.1%}"] for it in found.guardrails
        ]
        parts.append(_table(("until", "metric", "verdict", "margin"), judged))
    return "".join(parts)


def notebook_report(found: ReadOutMessage) -> str:
    """Return a read-out as a notebook, which holds its numbers and draws them.

    Its cells need the extra ``notebook``, and no server.
    """
    verdicts = "\n".join(
        f"- **{it.metric}** ({it.treatment.arm}): {it.difference:+.4g} {_range(it.anytime)}, "
        f"{it.verdict}"
        for it in found.effects
    )
    notes = "\n".join(f"> {note}\n" for note in found.notes)
    data = msgspec.json.encode(found).decode()
    cells = [
        _text(
            f"# {found.key}\n\n{found.source} numbers of {_time(found.at)}. Sample ratio: "
            f"{found.sample_ratio.verdict}.\n\n{notes}\n{verdicts or found.reason}"
        ),
        _code(
            "import msgspec\n\nfrom tactful.client import plots\n"
            "from tactful.client.frames import to_frame\n"
            "from tactful.client.messages import ReadOutMessage\n\n"
            f"data = {data!r}\n"
            "found = msgspec.json.decode(data, type=ReadOutMessage)"
        ),
        _text("Effects as shares of the control, with intervals that hold at any look."),
        _code("plots.effects(found)"),
        _code("to_frame(found.effects)"),
        _text("The course of each effect by day."),
        _code("to_frame(found.series)"),
    ]
    notebook = {
        "cells": [{**cell, "id": f"cell-{number}"} for number, cell in enumerate(cells)],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, ensure_ascii=False, indent=1)


def _text(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _code(source: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "metadata": {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }


def _row(effect: Effect) -> list[str]:
    control, treatment = effect.control, effect.treatment
    marks = [effect.verdict]
    marks += ["adjusted"] if effect.adjusted else []
    marks += ["exploratory"] if effect.exploratory else []
    return [
        f"{effect.metric}: {effect.words}",
        effect.role,
        treatment.arm,
        f"{control.value:.4g}",
        f"{treatment.value:.4g}",
        f"{effect.difference:+.4g}",
        "" if effect.relative is None else f"{effect.relative:+.1%}",
        _range(effect.anytime),
        _range(effect.fixed),
        f"{control.people + treatment.people:,}",
        ", ".join(marks),
    ]


def _point(point: EffectPoint) -> list[str]:
    return [
        _time(point.at),
        point.metric,
        point.arm,
        f"{point.difference:+.4g}",
        _range(point.anytime),
        f"{point.people:,}",
    ]


def _intervals(effects: Sequence[Effect]) -> str:
    """Draw each effect as a share of the control, with its interval for any look."""
    shares = [_shares(effect) for effect in effects]
    reach = max((abs(end) for ends in shares for end in ends if end is not None), default=1.0)
    reach = min(reach, 2.0) or 1.0  # one wide interval leaves the others readable

    def place(share: float) -> float:
        inside = max(-reach, min(reach, share))
        return _MARGIN + (_WIDTH - _MARGIN - 10) * (inside + reach) / (2 * reach)

    rows = []
    for number, (effect, (value, low, high)) in enumerate(zip(effects, shares, strict=True)):
        y = _ROW * number + 16
        colour = _COLOURS.get(effect.verdict, _GREY)
        ends = [place(-reach if low is None else low), place(reach if high is None else high)]
        rows.append(
            f"<text x=0 y={y + 4}>{escape(f'{effect.metric} ({effect.treatment.arm})')}</text>"
            f"<line x1={ends[0]:.1f} x2={ends[1]:.1f} y1={y} y2={y} stroke='{colour}' "
            f"stroke-width=3 /><circle cx={place(value or 0.0):.1f} cy={y} r=5 fill='{colour}' />"
        )
    height, middle = _ROW * len(effects) + 30, place(0.0)
    return (
        f"<svg viewBox='0 0 {_WIDTH} {height}' role=img aria-label='Effects as shares of the "
        f"control with intervals'><line x1={middle:.1f} x2={middle:.1f} y1=0 y2={height - 20} "
        f"stroke='{_GREY}' stroke-dasharray='4 4' />{''.join(rows)}<text x={_MARGIN} "
        f"y={height - 4}>{-reach:+.0%}</text><text x={_WIDTH - 44} y={height - 4}>{reach:+.0%}"
        "</text></svg>"
    )


def _shares(effect: Effect) -> tuple[float | None, float | None, float | None]:
    scale = abs(effect.control.value) or 1.0
    low, high = effect.anytime.low, effect.anytime.high
    return (
        effect.difference / scale,
        None if low is None else low / scale,
        None if high is None else high / scale,
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    names = "".join(f"<th>{escape(name)}" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(it)}" for it in row) for row in rows)
    return f"<table><thead><tr>{names}</thead><tbody>{body}</tbody></table>"


def _range(bounds: Bounds) -> str:
    low = "−∞" if bounds.low is None else f"{bounds.low:+.4g}"
    high = "∞" if bounds.high is None else f"{bounds.high:+.4g}"
    return f"[{low}, {high}]"


def _time(milliseconds: int) -> str:
    return f"{dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC):%Y-%m-%d %H:%M} UTC"
