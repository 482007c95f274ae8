"""Requests of the HTTP API for operators, a module for each area.

Each function returns a `tactful.client.request.Request`, which `Client.run` and `AsyncClient.run`
send. Types of answers are in `tactful.client.messages`. Begin with `access`.
"""
