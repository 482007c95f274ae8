"""What every grid of one run has, as Flower's interface asks for it."""

from __future__ import annotations

from tactful_federated.errors import missing_extra

try:
    from flwr.app import Message, RecordDict
    from flwr.serverapp import Grid
    from flwr.supercore.run import Run
except ModuleNotFoundError as error:
    raise missing_extra(error) from error


class OneRunGrid(Grid):
    """A grid that belongs to one run from the beginning."""

    def set_run(self, run: Run) -> None:
        """Accepted and ignored: there is one run."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node; Flower's interface wants it, and `Message(...)` does the same."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
