"""Endpoints about people: their data and rights, the budget of privacy, who looked at what.

They may import what `tactful.http` may import. Begin with `rights`.
"""
