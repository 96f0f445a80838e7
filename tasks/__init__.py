"""One retryable, idempotent side effect each, with its retry policy beside it.

A task opens a unit of work and calls a use case in services; it holds no rules of its own.
"""
