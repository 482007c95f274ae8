"""Keys and their noisy numbers as the integers that a ledger keeps: one for each byte of text."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_privacy.errors import LedgerError


def stored_keys(values: Mapping[str, int]) -> NDArray[np.int64]:
    """Return what the ledger stores of the keys that are shown, ``[bytes]``."""
    return np.frombuffer(msgspec.json.encode(values), dtype=np.uint8).astype(np.int64)


def found_values(stored: NDArray[np.int64], where: str) -> dict[str, int]:
    """Return the keys that are shown and their noisy numbers of users, the largest first.

    Args:
        stored: What `stored_keys` made.
        where: Of what, for the message.

    Raises:
        LedgerError: It is something else.
    """
    try:
        text = stored.astype(np.uint8).tobytes()
        values = msgspec.json.decode(text, type=dict[str, int])
    except msgspec.DecodeError as error:
        raise LedgerError(f"{where} is damaged: restore the ledger from a backup") from error
    return dict(sorted(values.items(), key=lambda item: (-item[1], item[0])))
