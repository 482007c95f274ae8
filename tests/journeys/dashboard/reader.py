"""Somebody who reads the dashboard in a browser, and presses what its pages offer."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.ui.dashboard_process import says

from benchmarks.browser import Page

AXE = (
    Path(__file__).resolve().parents[3] / "sdk" / "web" / "node_modules" / "axe-core" / "axe.min.js"
)
_VISIBLE = "((it) => it.offsetParent !== null)"
_BUSY = "document.querySelector('[data-testid=stStatusWidget], [data-stale=true]') !== null"


@dataclass
class Reader:
    """A reader of the dashboard.

    Attributes:
        page: tab of the browser.
        address: address of the dashboard.
    """

    page: Page
    address: str

    def open(self, path: str = "", *, title: str, dark: bool = False, width: int = 1400) -> None:
        """Open a page by its address, and wait for its title."""
        self.page.open(f"{self.address}/{path}", height=1400, dark=dark, width=width)
        titles = "[...document.querySelectorAll('h1')].map((it) => it.innerText)"
        self.page.wait_for(f"{titles}.includes({json.dumps(title)})")
        self.settle()

    def settle(self) -> None:
        """Wait until the page has run to its end."""
        self.page.wait_for(f"!({_BUSY})")

    def sign_in(self, key: str) -> None:
        """Enter a key and sign in."""
        self.fill("API key", key)
        self.press("Sign in")
        self.page.wait_for(f"!({says('does not accept the key')})")

    def fill(self, label: str, value: str) -> None:
        """Write into a field with this label."""
        named = f"[aria-label={json.dumps(label, ensure_ascii=False)}]"
        found = f"document.querySelector({json.dumps(f'input{named}, textarea{named}')})"
        self.page.wait_for(f"!!{found}")
        self.page.run(f"""
            const field = {found};
            const kind = field.tagName === 'INPUT' ? HTMLInputElement : HTMLTextAreaElement;
            const set = Object.getOwnPropertyDescriptor(kind.prototype, 'value').set;
            field.focus();
            set.call(field, {json.dumps(value)});
            field.dispatchEvent(new Event('input', {{bubbles: true}}));
            field.blur();
        """)
        self.settle()

    def press(self, label: str) -> None:
        """Press the first button or tab that can be seen and begins with this label."""
        self._click(_button(label))
        self.settle()

    def pages(self) -> list[str]:
        """Return the titles of the pages in the menu."""
        links = "[...document.querySelectorAll('[data-testid=stSidebarNavLink]')]"
        self.page.wait_for(f"{links}.length > 3")
        named = self.page.evaluate(f"{links}.map((it) => it.innerText.trim().split('\\n').pop())")
        return [str(name) for name in named]

    def go(self, link: str, *, title: str = "") -> None:
        """Follow a link of the menu and wait for the page, with this title if one is given."""
        found = (
            "[...document.querySelectorAll('[data-testid=stSidebarNavLink]')]"
            f".find((it) => it.innerText.trim().split('\\n').pop() === {json.dumps(link)})"
        )
        self._click(found)
        if title:
            titles = "[...document.querySelectorAll('h1')].map((it) => it.innerText)"
            self.page.wait_for(f"{titles}.includes({json.dumps(title)})")
        time.sleep(0.5)
        self.settle()

    def serious_findings(self) -> list[str]:
        """Return what axe finds serious or critical on the page and its menu."""
        if not AXE.is_file():
            assert os.environ.get("CI") != "true"
            pytest.skip("no axe here: scripts/web install")
        self.page.run(AXE.read_text("utf-8"))
        found = self.page.run(
            # Streamlit's own sign of a running page comes and goes.
            "return (await axe.run({exclude: [['[data-testid=stStatusWidget]']]})).violations"
            ".filter((it) => ['serious', 'critical'].includes(it.impact))"
            ".map((it) => `${it.id}: ${it.nodes[0].html}`)"
        )
        return [str(finding) for finding in found]

    def _click(self, found: str) -> None:
        """Click what an expression finds, once it is there: a page may be drawn meanwhile."""
        self.page.run(f"""
            for (let tries = 0; tries < 200; tries++) {{
                const it = {found};
                if (it) {{ it.click(); return; }}
                await new Promise((resolve) => setTimeout(resolve, 200));
            }}
            throw new Error({json.dumps(found)} + ' is not there: ' + document.body.innerText);
        """)

    def offers(self, label: str) -> bool:
        """Return whether there is such a button."""
        return bool(self.page.evaluate(f"!!{_button(label)}"))

    def choose(self, label: str, option: str) -> None:
        """Choose an option of the selection with this label, by writing its beginning."""
        quoted = json.dumps(label, ensure_ascii=False)
        named = json.dumps(f"input[role=combobox][aria-label={quoted}]")
        self.page.run(f"""
            const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;
            for (let tries = 0; tries < 100; tries++) {{
                const options = [...document.querySelectorAll('[role=option]')];
                const it = options.find((it) => it.innerText.trim() === {json.dumps(option)});
                if (it) {{ it.click(); return; }}
                const field = document.querySelector({named});
                if (field && tries % 5 === 0) {{  // again, if the page was drawn meanwhile
                    field.blur();
                    field.focus();
                    set.call(field, {json.dumps(option)});
                    field.dispatchEvent(new Event('input', {{bubbles: true}}));
                }}
                await new Promise((resolve) => setTimeout(resolve, 300));
            }}
            throw new Error('no option ' + {json.dumps(option)});
        """)
        self.settle()

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        """Wait until the page says something."""
        self.page.wait_for(says(text), seconds=seconds)

    def says(self, text: str) -> bool:
        """Return whether the page says something now."""
        return bool(self.page.evaluate(says(text)))

    def numbers(self) -> list[str]:
        """Return all numbers of the page's own part, without those of the menu."""
        said = self.page.evaluate("document.querySelector('[data-testid=stMain]').innerText")
        return re.findall(r"\d[\d,.]*", str(said))


def picture(page: Page, folder: Path, name: str) -> None:
    """Keep a picture of the window, for somebody to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(folder / f"{name}.png")


def _button(label: str) -> str:
    return (
        "[...document.querySelectorAll('button:enabled, [role=tab], summary, a, label')]"
        f".filter({_VISIBLE})"
        f".find((it) => it.innerText.trim().split('\\n').includes({json.dumps(label)}))"
    )
