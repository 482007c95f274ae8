"""Pictures of the goods, as SVG: flat forms in the colour of the item."""

from __future__ import annotations

import zlib

from tactful.demo.shop.goods import COLOURS, Good

FORMS = {
    "pot": (
        '<path d="M112 92q30 2 28 34-2 22-24 24" fill="none" stroke="{dark}" stroke-width="9"/>'
        '<path d="M52 104 28 86l-8 6 34 44z" fill="{dark}"/>'
        '<ellipse cx="84" cy="122" rx="40" ry="36" fill="{main}"/>'
        '<rect x="62" y="80" width="44" height="10" rx="5" fill="{dark}"/>'
        '<circle cx="84" cy="74" r="7" fill="{dark}"/>'
    ),
    "cup": (
        '<path d="M110 84h14a18 18 0 0 1 0 40h-18" fill="none" stroke="{dark}" stroke-width="9"/>'
        '<path d="M42 72h72v46a32 32 0 0 1-32 32h-8a32 32 0 0 1-32-32z" fill="{main}"/>'
        '<rect x="42" y="72" width="72" height="12" fill="{light}"/>'
    ),
    "tin": (
        '<rect x="48" y="66" width="64" height="86" rx="8" fill="{main}"/>'
        '<rect x="44" y="54" width="72" height="20" rx="6" fill="{dark}"/>'
        '<rect x="60" y="96" width="40" height="30" rx="4" fill="{light}"/>'
    ),
    "bowl": (
        '<path d="M26 84h108a54 54 0 0 1-108 0z" fill="{main}"/>'
        '<ellipse cx="80" cy="84" rx="54" ry="12" fill="{light}"/>'
        '<rect x="58" y="138" width="44" height="10" rx="4" fill="{dark}"/>'
    ),
    "bottle": (
        '<rect x="66" y="34" width="28" height="18" rx="5" fill="{dark}"/>'
        '<path d="M70 52h20v14q18 8 18 26v48a12 12 0 0 1-12 12H64a12 12 0 0 1-12-12V92q0-18 18-26z"'
        ' fill="{main}"/><rect x="52" y="100" width="56" height="28" fill="{light}"/>'
    ),
    "board": (
        '<rect x="30" y="48" width="100" height="84" rx="12" fill="{main}"/>'
        '<path d="M30 76h100M30 104h100" stroke="{light}" stroke-width="4"/>'
        '<circle cx="116" cy="62" r="6" fill="{dark}"/>'
    ),
    "plant": (
        '<path d="M80 92q-6-50-44-50 2 40 44 50zm0 0q4-58 42-58 2 44-42 58z" fill="#6d9b5f"/>'
        '<path d="M46 92h68l-10 58H56z" fill="{main}"/>'
        '<rect x="40" y="84" width="80" height="16" rx="5" fill="{dark}"/>'
    ),
    "box": (
        '<rect x="34" y="62" width="92" height="82" rx="6" fill="{main}"/>'
        '<path d="M34 88h92M34 118h92" stroke="{dark}" stroke-width="5"/>'
        '<rect x="64" y="70" width="32" height="10" rx="5" fill="{light}"/>'
    ),
    "book": (
        '<rect x="44" y="42" width="76" height="104" rx="6" fill="{main}"/>'
        '<rect x="44" y="42" width="16" height="104" rx="6" fill="{dark}"/>'
        '<rect x="72" y="62" width="36" height="16" rx="3" fill="{light}"/>'
    ),
    "clock": (
        '<circle cx="80" cy="96" r="54" fill="{main}"/><circle cx="80" cy="96" r="42"'
        ' fill="{light}"/><path d="M80 66v30l20 14" fill="none" stroke="{dark}"'
        ' stroke-width="7" stroke-linecap="round"/>'
    ),
    "cloth": (
        '<path d="M34 56h92v76q-12 12-23 0-12 12-23 0-12 12-23 0-12 12-23 0z" fill="{main}"/>'
        '<path d="M34 74h92M34 84h92" stroke="{light}" stroke-width="5"/>'
    ),
    "bag": (
        '<path d="M58 74V62a22 22 0 0 1 44 0v12" fill="none" stroke="{dark}" stroke-width="8"/>'
        '<path d="M36 72h88l8 76H28z" fill="{main}"/>'
        '<rect x="56" y="98" width="48" height="30" rx="5" fill="{light}"/>'
    ),
    "ball": (
        '<circle cx="80" cy="96" r="52" fill="{main}"/>'
        '<path d="M34 78q46 26 92 0M34 116q46-26 92 0" fill="none" stroke="{light}"'
        ' stroke-width="6"/>'
    ),
    "lamp": (
        '<path d="M56 40h48l22 56H34z" fill="{main}"/>'
        '<rect x="76" y="96" width="8" height="44" fill="{dark}"/>'
        '<rect x="52" y="138" width="56" height="12" rx="6" fill="{dark}"/>'
        '<path d="M56 96h48" stroke="{light}" stroke-width="6"/>'
    ),
}
"""Drawing of each form, in a square of 160, with places for three shades of one colour."""


def picture(good: Good) -> str:
    """Draw an item as SVG."""
    main = COLOURS[good.colour]
    shades = {"main": main, "dark": _mixed(main, 0, 0.35), "light": _mixed(main, 255, 0.55)}
    # Two items of one form and colour differ by the tilt and by the ground.
    draw = zlib.crc32(good.item_id.encode())
    tilt, ground = draw % 13 - 6, _mixed(main, 255, 0.8 + draw // 13 % 5 * 0.03)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 160">'
        f'<rect width="160" height="160" fill="{ground}"/>'
        '<ellipse cx="80" cy="152" rx="52" ry="5" fill="#000" opacity=".12"/>'
        f'<g transform="rotate({tilt} 80 96)">{FORMS[good.form].format(**shades)}</g></svg>'
    )


def _mixed(colour: str, towards: int, share: float) -> str:
    """Mix a colour such as ``#4a76a8`` with black (0) or white (255)."""
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (towards - part) * share):02x}" for part in parts)
