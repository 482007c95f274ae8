"""The command line `tactful`; one module for each group of commands.

It may import every other sub-package of `tactful`.
Begin with `main`.
"""
