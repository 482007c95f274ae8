"""The page of the API: complete, self-contained, escaped, and where a visitor finds it."""

from __future__ import annotations

import re
import shlex
from html import unescape
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from tests.platform.support import Live

from tactful.http.docs_page import render
from tactful.http.openapi import document
from tactful.http.routes import ENDPOINTS

DOCUMENT: dict[str, Any] = msgspec.json.decode(
    msgspec.json.encode(document(ENDPOINTS, version="0.1.0"))
)
VOID = {"meta", "tr", "td", "th", "p"}  # which HTML closes by itself


class Parsed(HTMLParser):
    """Text, links, ids and elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        given = dict(attrs)
        self.links += [given["href"] or ""] if "href" in given else []
        self.ids += [given["id"] or ""] if "id" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.slow
def test_every_route_is_on_the_page_with_scopes_fields_and_examples() -> None:
    page = render(DOCUMENT)
    parsed = Parsed(page)
    assert parsed.open == ["html"] or parsed.open == []
    text = "".join(parsed.words)
    sections = dict(re.findall(r"<h2 id='(\w+)'>(.*?)(?=<h2)", page, re.DOTALL))
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            section = unescape(sections[operation["operationId"]])
            assert f"<code>{method.upper()} {path}</code>" in section
            assert operation["summary"] in section
            scopes = {
                it for scheme in operation["security"] for its in scheme.values() for it in its
            }
            assert all(f"<code>{scope}</code>" in section for scope in scopes)
            assert ("no key is needed" in section) is not bool(operation["security"])
            for parameter in operation.get("parameters", ()):
                assert f"<td>{'required' if parameter['required'] else ''}" in section
                assert f"<code>{parameter['name']}</code>" in section
            contents = [operation["requestBody"]["content"]] if "requestBody" in operation else []
            contents += [it["content"] for it in operation["responses"].values()]
            for content in contents:
                example = content.get("application/json", {}).get("example")
                if example is not None:
                    shown = msgspec.json.format(msgspec.json.encode(example), indent=2).decode()
                    assert f"<pre>{shown}</pre>" in section
            for status, response in operation["responses"].items():
                for code in (
                    response["content"].get("application/problem+json", {}).get("examples", {})
                ):
                    assert f"<code>{code}</code>" in section, status
    for name, component in DOCUMENT["components"]["schemas"].items():
        assert f"type-{name}" in parsed.ids
        for field, schema in component["properties"].items():
            assert field in text
            said = " ".join(schema.get("description", "").replace("`", "").split())
            assert said in text, (name, field)


def test_the_page_is_one_small_file_whose_links_lead_somewhere() -> None:
    page = render(DOCUMENT)
    parsed = Parsed(page)
    assert len(page) < 500_000
    assert not parsed.elements & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert not {name for name in parsed.attributes if name.startswith("on")} | (
        parsed.attributes & {"src", "style", "action"}
    )
    assert "url(" not in page and "@import" not in page
    assert {link for link in parsed.links if not link.startswith("#")} == {"openapi.json"}
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link[1:] for link in parsed.links if link.startswith("#")} <= {*parsed.ids}


EVIL = "</code><script>alert('1')</script>\"' onload='x' `<b>` & {braces}"


def planted(value: Any) -> Any:
    """The document with markup in every text and every name of a path, field, type and value."""
    if isinstance(value, dict):
        return {key: planted(it) for key, it in value.items()}
    if isinstance(value, list):
        return [planted(it) for it in value]
    return f"{value}{EVIL}" if isinstance(value, str) else value


@pytest.mark.slow
def test_every_text_is_escaped() -> None:
    changed = planted(DOCUMENT)
    names = DOCUMENT["components"]["schemas"]
    changed["components"]["schemas"] = {f"{name}{EVIL}": planted(it) for name, it in names.items()}
    for component in changed["components"]["schemas"].values():
        component["properties"] = {
            f"{key}{EVIL}": it for key, it in component["properties"].items()
        }
    for methods in changed["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                parameter["in"] = "query"
            for response in operation["responses"].values():
                told = response["content"].get("application/problem+json")
                if told is not None:
                    told["examples"] = {
                        f"{code}{EVIL}": it for code, it in told["examples"].items()
                    }
    changed["paths"] = {f"{path}{EVIL}": it for path, it in changed["paths"].items()}
    parsed = Parsed(render(changed))
    plain = Parsed(render(DOCUMENT))
    assert parsed.elements <= plain.elements | {"a", "code"}
    assert parsed.attributes <= plain.attributes
    assert "<script>alert('1')</script>" in "".join(parsed.words)


@pytest.mark.slow
def test_commands_of_the_page_can_be_called(shared: Live) -> None:
    page = Parsed(render(DOCUMENT))
    commands = [text for text in page.words if text.startswith("curl ")]
    assert len(commands) == len(ENDPOINTS)
    for command in commands:
        words = shlex.split(command)
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        url = next(word for word in words if word.startswith("http://127.0.0.1:8420/"))
        body = words[words.index("-d") + 1] if "-d" in words else None
        if method in ("DELETE", "PUT") or any(
            part in url for part in ("/erasures", "/experiments", "/models/", "/alerts")
        ):
            continue  # would change what other tests read
        if url.endswith("/flags/stream"):
            continue  # does not end
        path = url.removeprefix("http://127.0.0.1:8420")
        headers = {"content-type": "application/x-www-form-urlencoded"} if body else {}
        answer = shared.http.request(method, path, content=body, headers=headers)
        assert answer.status_code in (200, 201, 202, 204, 404), (command, answer.text)


def test_a_visitor_finds_the_page_and_a_program_links(shop: Live) -> None:
    """Also without a key."""
    seen = shop.http.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (seen.status_code, seen.headers["location"]) == (302, "docs")
    assert seen.headers["vary"] == "accept"
    links = shop.http.get("/").json()
    assert links["documentation"] == "/docs" and links["openapi"] == "/openapi.json"
    assert {shop.http.get(links[name]).status_code for name in ("documentation", "openapi")} == {
        200
    }
    page = shop.http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert page.text == render(
        {**DOCUMENT, "info": {**DOCUMENT["info"], "version": links["version"]}}
    )
    assert shop.http.head("/docs").status_code == 200
    assert shop.http.get("/docs?x=1").status_code == 400
    assert shop.http.post("/").status_code == 405


@pytest.mark.parametrize("path", ["/docs", "/"])
def test_in_dev_no_other_name_gets_the_page(shared: Live, path: str) -> None:
    assert shared.http.get(path, headers={"host": "evil.example"}).status_code == 421
