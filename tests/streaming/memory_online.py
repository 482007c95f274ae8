"""An online store in memory, for tests of its writers and readers."""

from collections.abc import Sequence

from tactful_streaming.errors import OnlineStoreLostError
from tactful_streaming.online.store import Blobs, BlobsByKind


class MemoryOnlineStore:
    """Blobs by kind and key, and marks by partition."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.marks: dict[int, int] = {}

    def get_many(self, keys: Sequence[str], *, kind: str = "user") -> list[bytes | None]:
        return [self.blobs.get((kind, key)) for key in keys]

    def put_many(self, blobs: Blobs, *, kind: str = "user") -> None:
        for key, blob in blobs.items():
            if blob is None:
                self.blobs.pop((kind, key), None)
            else:
                self.blobs[kind, key] = blob

    def mark(self, partition: int, offset: int, *, previous: int | None) -> None:
        present = self.marks.get(partition)
        if previous is not None and present not in (offset, previous):
            raise OnlineStoreLostError(f"partition {partition} is marked at {present}")
        self.marks[partition] = offset

    def put_marked(self, blobs: BlobsByKind, partition: int, offset: int, *, previous: int) -> None:
        for kind, of_kind in blobs.items():
            self.put_many(of_kind, kind=kind)
        self.mark(partition, offset, previous=previous)

    def marked(self, partition: int) -> int | None:
        return self.marks.get(partition)

    def close(self) -> None:
        pass
