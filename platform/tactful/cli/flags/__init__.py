"""Commands around feature flags.

It may import what `tactful.cli` may. Begin with `files`.
"""
