"""Page that shows the quality of data: one HTML file without scripts or external files."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from html import escape

from tactful.schemas.data.quality import FieldQuality, Quality

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}table{border-collapse:collapse;width:100%;font-size:.9rem}"
    "th,td{border-bottom:1px solid #8884;padding:.3rem .5rem;text-align:left;"
    "vertical-align:top;overflow-wrap:anywhere}td.n{text-align:right}"
    ".fail{color:#b3261e;font-weight:600}.warn{color:#8a5a00}"
)


def render(name: str, quality: Quality) -> str:
    """Render the quality of a file of this name."""
    verdict = "passed" if quality.passed else "failed"
    css = "" if quality.passed else " class=fail"
    findings = [
        [finding.level, _place(finding.of, finding.field), finding.message]
        for finding in quality.findings
    ]
    volumes = [[each.source, f"{each.before:,}", f"{each.after:,}"] for each in quality.sources]
    refused = [[code, f"{number:,}"] for code, number in quality.refused.items()]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'><meta name=robots content=noindex>",
        f"<title>{escape(name)}: {verdict}</title><style>{_STYLE}</style>",
        f"<h1>{escape(name)}: <span{css}>{verdict}</span></h1>",
        f"<p>{quality.elements:,} elements, {_day(quality.first_at)} to {_day(quality.last_at)}; "
        f"{quality.duplicates:,} repeated ids, {quality.look_alikes:,} look-alikes.</p>",
        "<h2>Findings</h2>",
        _table(("level", "field", "what is odd"), findings) if findings else "<p>none</p>",
        "<h2>Refused</h2>",
        _table(("code", "elements"), refused) if refused else "<p>none</p>",
        "<h2>Sources</h2>",
        _table(("source", "first half", "second half"), volumes),
        "<h2>Fields</h2>",
        _table(_HEAD, map(_row, quality.fields)),
    ]
    return "".join(parts)


_HEAD = ("field", "missing", "first half", "second half", "types", "distinct", "range", "new")


def _row(each: FieldQuality) -> list[str]:
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in each.types.items())
    reach = "" if each.lowest is None else f"{each.lowest:g} to {each.highest:g}"
    new = "" if each.new_share is None else f"{each.new_share:.1%} {', '.join(each.new_values)}"
    return [
        _place(each.of, each.field),
        f"{each.missing:.1%}",
        f"{each.missing_before:.1%}",
        f"{each.missing_after:.1%}",
        kinds,
        "many" if each.distinct is None else f"{each.distinct:,}",
        reach,
        new,
    ]


def _place(of: str, field: str) -> str:
    return f"{of} {field}".strip()


def _day(at: int | None) -> str:
    return "-" if at is None else f"{dt.datetime.fromtimestamp(at / 1000, dt.UTC):%Y-%m-%d %H:%M}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th scope=col>{escape(name)}" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td{_css(value)}>{escape(value)}" for value in row) for row in rows
    )
    return f"<table><tr>{cells}{body}</table>"


def _css(value: str) -> str:
    return f" class={value}" if value in ("fail", "warn") else ""
