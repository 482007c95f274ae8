"""Vectors of items and queries from their words and pictures.

It may import `config`, `util`. Begin with `encoder`.
"""
