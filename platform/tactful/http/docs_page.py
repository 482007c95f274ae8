"""Page with the documentation of the API, made of the OpenAPI document.

It is one file: no scripts, and nothing from elsewhere. Every text of the document is escaped.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import urlencode

import msgspec

Schema = Mapping[str, Any]

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--link:#0a58ca}
@media(prefers-color-scheme:dark){:root{--link:#7ab7ff}}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
a{color:var(--link)}
h2{margin-top:3rem;border-top:1px solid var(--line);padding-top:1rem}
h3{margin:1.5rem 0 .3rem;font-size:1rem}
code,pre{font:.9em ui-monospace,monospace}
pre{background:var(--soft);padding:.7rem;overflow:auto;border-radius:.3rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{border-bottom:1px solid var(--line);padding:.3rem .5rem;text-align:left;vertical-align:top}
td{overflow-wrap:anywhere}
nav td:first-child{white-space:nowrap}
summary{cursor:pointer}
"""
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "{} characters or more",
    "maxLength": "{} characters at most",
    "minItems": "{} or more",
    "maxItems": "{} at most",
    "maxProperties": "{} at most",
}
_CODE = re.compile(r"``?([^`]+)``?")


def render(document: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI document."""
    info = document["info"]
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemes = document["components"]["securitySchemes"]
    title = f"{info['title']} {info['version']}"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>{escape(title)}: API</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}: API</h1><p>{_prose(info['summary'])}</p>",
        "<p>Programs read the same as <a href=openapi.json>openapi.json</a>. Send a key as ",
        "<code>Authorization: Bearer KEY</code> or <code>X-API-Key: KEY</code>; with ",
        f"<code>--dev</code> none is needed. {_prose(schemes['bearer']['description'])} ",
        f"{_other_ways(schemes)}</p>",
        "<nav><table>",
        *(_entry(*operation) for operation in operations),
        "</table></nav>",
        *(_operation(*operation) for operation in operations),
        "<h2>Types</h2>",
        *(_component(*named) for named in sorted(document["components"]["schemas"].items())),
        "</html>",
    ]
    return "".join(parts)


def _other_ways(schemes: Mapping[str, Schema]) -> str:
    """Return how some routes take a key besides the two headers."""
    ways = {
        "query": "as the query parameter `{name}`",
        "basic": "by HTTP's basic authentication",
    }
    found = []
    for name, scheme in schemes.items():
        way = ways.get(scheme.get("in") or scheme.get("scheme") or "")
        if name != "bearer" and way is not None:
            sent = way.format(name=scheme.get("name", ""))
            found.append(f"Some routes also take one {sent}: {scheme['description']}")
    return _prose(" ".join(found))


def _entry(method: str, path: str, operation: Schema) -> str:
    anchor = escape(operation["operationId"])
    return (
        f"<tr><td><a href='#{anchor}'><code>{method} {escape(path)}</code></a>"
        f"<td>{_prose(operation['summary'])}<td>{_scopes(operation)}"
    )


def _operation(method: str, path: str, operation: Schema) -> str:
    parts = [
        f"<h2 id='{escape(operation['operationId'])}'><code>{method} {escape(path)}</code></h2>",
        f"<p><b>{_prose(operation['summary'])}.</b> {_prose(operation.get('description', ''))}",
        f"<p>Scope: {_scopes(operation)}",
    ]
    if parameters := operation.get("parameters"):
        parts += ["<h3>Parameters</h3>", _table(map(_parameter, parameters))]
    if body := operation.get("requestBody"):
        parts += _content("Request", body["content"])
    parts.append(f"<h3>Example</h3><pre>{escape(_curl(method, path, operation))}</pre>")
    for status, response in operation["responses"].items():
        if int(status) < 400:
            parts += _content(f"Answer {status}", response["content"])
    problems = [
        (status, response["description"], _codes(response))
        for status, response in operation["responses"].items()
        if int(status) >= 400
    ]
    rows = (
        f"<tr><td>{escape(status)}<td>{_prose(title)}<td>{codes}"
        for status, title, codes in problems
    )
    head = f"<details><summary>Problems: {', '.join(escape(it[0]) for it in problems)}</summary>"
    return "".join([*parts, head, f"<table>{''.join(rows)}</table></details>"])


def _scopes(operation: Schema) -> str:
    found = dict.fromkeys(
        scope for scheme in operation["security"] for scopes in scheme.values() for scope in scopes
    )
    named = ", ".join(f"<code>{escape(scope)}</code>" for scope in found)
    return named or ("any key" if operation["security"] else "none: no key is needed")


def _codes(response: Schema) -> str:
    examples = response["content"]["application/problem+json"]["examples"]
    return ", ".join(f"<code>{escape(code)}</code>" for code in examples)


def _parameter(parameter: Schema) -> tuple[str, Schema, bool]:
    schema = {"description": f"In the {parameter['in']}.", **parameter["schema"]}
    return parameter["name"], schema, parameter["required"]


def _content(title: str, content: Schema) -> Iterator[str]:
    media = ", ".join(f"<code>{escape(medium)}</code>" for medium in content)
    yield f"<h3>{escape(title)}</h3><p>{media}"
    told = content.get("application/json", {})
    if "schema" in told:
        yield f": {_type(told['schema'])}"
    if told.get("example") is not None:
        yield f"<pre>{escape(_json(told['example']))}</pre>"


def _component(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    fields = [(key, it, key in required) for key, it in schema.get("properties", {}).items()]
    paragraphs = schema.get("description", "").split("\n\n")
    said = "".join(f"<p>{_prose(' '.join(text.split()))}</p>" for text in paragraphs)
    return f"<h3 id='type-{escape(name)}'>{escape(name)}</h3>{said}{_table(fields)}"


def _table(rows: Iterator[tuple[str, Schema, bool]] | Sequence[tuple[str, Schema, bool]]) -> str:
    """Return a table of fields: name, whether it is required, type, meaning."""
    lines = []
    for name, schema, required in rows:
        needed = "required" if required else _default(schema)
        said = _prose(schema.get("description", ""))
        lines.append(
            f"<tr><td><code>{escape(name)}</code><td>{_type(schema)}<td>{needed}<td>{said}"
        )
    return f"<table>{''.join(lines)}</table>"


def _default(schema: Schema) -> str:
    default = schema.get("default")
    if default is None or default in ([], {}, ""):
        return ""
    return f"default <code>{escape(msgspec.json.encode(default).decode())}</code>"


def _type(schema: Schema) -> str:
    """Return the type of a schema in words, with its bounds, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#type-{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    if "enum" in schema:
        values = (escape(msgspec.json.encode(value).decode()) for value in schema["enum"])
        return f"one of {', '.join(f'<code>{value}</code>' for value in values)}"
    kind = schema.get("type", "any value")
    words = escape(" or ".join(kind) if isinstance(kind, list) else kind)
    inner = schema.get("items" if kind == "array" else "additionalProperties")
    if isinstance(inner, Mapping) and inner:
        words += f" of {_type(inner)}"
    bounds = [text.format(_number(schema[key])) for key, text in _BOUNDS.items() if key in schema]
    return f"{words} ({escape(', '.join(bounds))})" if bounds else words


def _number(bound: float) -> str:
    """Return a bound, without the fraction of a whole number."""
    return f"{int(bound) if float(bound).is_integer() else bound:,}"


def _curl(method: str, path: str, operation: Schema) -> str:
    """Return a command that sends the example of an operation."""
    query: list[tuple[str, Any]] = []
    for parameter in operation.get("parameters", ()):
        if "example" not in parameter:
            continue
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
        else:
            query.append((parameter["name"], parameter["example"]))
    url = f"http://127.0.0.1:8420{path}" + (f"?{urlencode(query)}" if query else "")
    words = ["curl", *(["-X", method] if method != "GET" else []), shlex.quote(url)]
    if operation["security"]:
        words += ["-H", '"Authorization: Bearer $TACTFUL_API_KEY"']
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if content.get("example") is not None:
        words += ["-d", shlex.quote(msgspec.json.encode(content["example"]).decode())]
    return " ".join(words)


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _prose(text: str) -> str:
    """Escape a text, and mark what stands between backticks as code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))
