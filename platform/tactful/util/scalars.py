"""Checks of plain values from files and properties."""

from __future__ import annotations

from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether `value` is a number; a boolean or NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def is_whole_number(value: Any) -> TypeGuard[int]:
    """Return whether `value` is an integer; a boolean is not."""
    return isinstance(value, int) and not isinstance(value, bool)
