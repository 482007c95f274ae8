"""The HTTP API on ASGI: routes, handlers, OpenAPI and the uvicorn server.

It may import `alerts`, `catalogue`, `client`, `config`, `event_log`, `experiments`, `kernels`,
`metadata`, `metrics`, `pipeline`, `ranking`, `recall`, `rerank`, `schemas`, `sources`,
`statistics`, `subjects`, `training`, `util`, `vectors`.
Begin with `routes`.
"""
