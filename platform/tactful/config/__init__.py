"""Settings of an installation, from `tactful.toml` and `TACTFUL_*`, and logging.

It may import `kernels`, `metrics`, `schemas`, `util`.
Begin with `settings`.
"""
