"""Errors of decoding JSON, MessagePack or YAML that is damaged, foreign or hostile."""

from __future__ import annotations

from typing import Final

import msgspec

DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Errors of a decoder: not of the format or type, not UTF-8, or nested too deeply."""
