"""Item vectors and nearest-neighbour indexes over them.

It may import `catalogue`, `client`, `config`, `kernels`, `metrics`, `schemas`, `util`.
Begin with `ivf_index`.
"""
