"""Objects in a folder or in S3, and snapshots of directories made of them.

It imports only `tactful_streaming.errors`. Begin with `snapshots`.
"""
