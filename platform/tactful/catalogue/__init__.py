"""Items as columns, and the features of one request.

It may import `kernels`, `metrics`, `schemas`, `util`.
Begin with `catalogue`.
"""
