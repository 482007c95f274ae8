"""The assembled product: configuration, HTTP service, recommendation, training and the demo.

Importing this package costs nothing: its names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tactful.client import AsyncClient, Client, OfflineQueue
    from tactful.config.load import load_settings
    from tactful.config.settings import Settings
    from tactful.errors import TactfulError
    from tactful.models.mlflow_registry import Registry
    from tactful.recommend.recommender import Recommender
    from tactful.server.platform import Platform
    from tactful.training.options import TrainingOptions
    from tactful.training.train import train

__all__ = [
    "AsyncClient",
    "Client",
    "OfflineQueue",
    "Platform",
    "Recommender",
    "Registry",
    "Settings",
    "TactfulError",
    "TrainingOptions",
    "load_settings",
    "train",
]

_HOMES = {
    "AsyncClient": "client.sync",
    "Client": "client.sync",
    "OfflineQueue": "client.sync",
    "Platform": "server.platform",
    "Recommender": "recommend.recommender",
    "Registry": "models.mlflow_registry",
    "Settings": "config.settings",
    "TactfulError": "errors",
    "TrainingOptions": "training.options",
    "load_settings": "config.load",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
