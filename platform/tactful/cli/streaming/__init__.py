"""Commands of feature computation beside the server: sinks, Flink.

They may import every other sub-package of `tactful`. Begin with `sink`.
"""
