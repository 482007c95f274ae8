"""Base class of Flower grids that serve a single run."""

from __future__ import annotations

from tactful_federated.errors import missing_extra

try:
    from flwr.app import Message, RecordDict
    from flwr.serverapp import Grid
    from flwr.supercore.run import Run
except ModuleNotFoundError as error:
    raise missing_extra(error) from error


class OneRunGrid(Grid):
    """Flower grid of a single run."""

    def set_run(self, run: Run) -> None:
        """Do nothing: the run is fixed."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a node, as Flower's interface requires."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
