"""Bodies that gzip has compressed."""

from __future__ import annotations

import zlib

from tactful.schemas.problems import ProblemError

_GZIP = 16 + zlib.MAX_WBITS


def inflated(body: bytes, limit: int) -> bytes:
    """Return a body of gzip without its compression.

    Never more than `limit` bytes and one are made, whatever the body claims to hold.

    Raises:
        ProblemError: if it is longer, damaged, cut off, or followed by anything else.
    """
    inflater = zlib.decompressobj(_GZIP)
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise ProblemError("bad_body", "the body is not what gzip writes") from None
    if len(content) > limit:
        raise ProblemError(
            "too_large", f"a body may have {limit} bytes when it is inflated: send smaller batches"
        )
    if not inflater.eof or inflater.unused_data:
        raise ProblemError("bad_body", "the body is not one whole member of gzip")
    return content
