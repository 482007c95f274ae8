"""What a plain value is that somebody wrote: in a file, or as a property of an item or a person."""

from __future__ import annotations

from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a number; neither a truth value nor NaN is one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def is_whole_number(value: Any) -> TypeGuard[int]:
    """Whether it is a number without a decimal point, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)
