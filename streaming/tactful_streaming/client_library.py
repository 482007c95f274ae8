"""The C library below the Kafka client, for what the client's Python part has no fast call for.

The address of the library's handle stands where Python's part of a client object ends. It is
believed where the handle says in turn that it belongs to that object.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from typing import Any

POINTER: Any = ctypes.c_void_p

Functions = Mapping[str, tuple[Any, Sequence[Any]]]
"""What functions of the library return and take, as ctypes says it, by their names."""

_OWNER: Functions = {"rd_kafka_opaque": (POINTER, [POINTER])}


def reach(client: Any, module: Any, functions: Functions) -> tuple[Any, int] | None:
    """The library and the handle of a client.

    Args:
        client: a consumer or a producer that is not closed.
        module: the client's module, ``confluent_kafka``.
        functions: those that are to be called.

    Returns:
        The library with `functions`, and the address of the handle; None where they cannot be had:
        then the client has to do without.
    """
    if sys.implementation.name != "cpython" or ctypes.sizeof(POINTER) != 8:
        return None
    try:
        library = ctypes.CDLL(module.cimpl.__file__)  # which leads to the C library, too
        for name, (result, arguments) in {**_OWNER, **functions}.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (AttributeError, OSError):
        return None
    handle = POINTER.from_address(id(client) + object.__basicsize__).value
    if handle is None or library.rd_kafka_opaque(handle) != id(client):
        return None
    return library, handle
