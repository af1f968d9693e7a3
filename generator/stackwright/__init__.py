"""Stackwright: from a bare host to a running, checked LLM service."""

__version__ = "0.1.0"
