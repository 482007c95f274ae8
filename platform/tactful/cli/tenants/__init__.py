"""Commands about the shops of one installation.

It may import what `tactful.cli` may. Begin with `manage`.
"""
