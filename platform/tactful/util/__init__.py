"""Small helpers without a subject of their own: files, signals, memory, background work.

It may import `kernels`, `metrics`, `schemas`.
Begin with `checkpoint`.
"""
