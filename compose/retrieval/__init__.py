"""The retrieval proxy: keeps documents of each key's own collections, finds passages in them, and answers from these.

Runs in its own virtual environment, in several worker processes that share one PostgreSQL (docs/how-to/retrieval.md).
"""
