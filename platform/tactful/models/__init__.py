"""The model registry, the audit log of promotions, drift, skew and scheduled training.

It may import every level below its own in `pyproject.toml`. Begin with `mlflow_registry`.
"""
