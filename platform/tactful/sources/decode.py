"""Decodes JSON of other programs' clients, which is less strict than ours."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from tactful_privacy.decoding import DECODE_ERRORS


def decode_json(text: bytes) -> Any:
    """Decode JSON; NaN and Infinity, which Python's encoder writes, become null.

    Raises:
        ValueError: if it is no JSON in UTF-8, or nested too deeply.
    """
    try:
        return msgspec.json.decode(text)
    except DECODE_ERRORS:
        pass
    try:
        return json.loads(text.decode("utf-8"), parse_constant=lambda constant: None)
    except (ValueError, *DECODE_ERRORS) as error:
        raise ValueError("not JSON in UTF-8") from error
