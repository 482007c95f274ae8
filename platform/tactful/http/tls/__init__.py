"""TLS of the HTTP server.

May import what `tactful.http` may. Begin with `certificate`.
"""
