"""Encoding of found keys and their noisy counts as ledger integers.

``{"tea": 120}`` is stored as one integer for each byte of its JSON: ``[123, 34, 116, …]``.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_privacy.errors import LedgerError


def stored_keys(values: Mapping[str, int]) -> NDArray[np.int64]:
    """Encode shown keys for the ledger, ``[bytes]``."""
    return np.frombuffer(msgspec.json.encode(values), dtype=np.uint8).astype(np.int64)


def found_values(stored: NDArray[np.int64], where: str) -> dict[str, int]:
    """Decode `stored_keys`, largest number first; `LedgerError` for other integers."""
    try:
        text = stored.astype(np.uint8).tobytes()
        values = msgspec.json.decode(text, type=dict[str, int])
    except msgspec.DecodeError as error:
        raise LedgerError(f"{where} is damaged: restore the ledger from a backup") from error
    return dict(sorted(values.items(), key=lambda item: (-item[1], item[0])))
