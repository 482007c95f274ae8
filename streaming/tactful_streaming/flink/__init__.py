"""The compiler from definitions to Flink SQL, its jar and the REST client.

It may import `contract`, `decode`, `definitions`, `kernels`, `log`, `state`.
Begin with `compiler`.
"""
