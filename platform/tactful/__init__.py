"""The assembled product: configuration, HTTP service, recommendation, training and the demo.

Importing this package costs nothing: its names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tactful_privacy.lazy_imports import lazy_names

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

_LAZY = {
    "client.sync": "AsyncClient Client OfflineQueue",
    "config.load": "load_settings",
    "config.settings": "Settings",
    "errors": "TactfulError",
    "models.mlflow_registry": "Registry",
    "recommend.recommender": "Recommender",
    "server.platform": "Platform",
    "training.options": "TrainingOptions",
    "training.train": "train",
}
__getattr__, __dir__ = lazy_names(__name__, __all__, _LAZY)
