"""Locks, licences, bill of materials, vulnerabilities and archives of a release.

Begin with `locks`; each module is a program: `python -m deploy.release.locks --help`.
"""
