"""Searches of a server by text, voice and picture.

It may import what `server` may. Begin with `searches`.
"""
