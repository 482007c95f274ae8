"""Pages about items: the catalogue, and a search to try.

It may import what `views` may. Begin with `catalogue`.
"""
