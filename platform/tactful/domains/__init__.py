"""Domains, such as a shop and its magazine: profiles that users let cross from one to another.

It may import `errors`, `schemas`, `util` and `tactful_privacy`. Begin with `bridge`.
"""
