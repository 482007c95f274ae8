"""The demo's web shop: made-up goods and customers, and pages that call a running server.

It may import the demo above it and what that may import. Begin with `run`.
"""
