"""See `entrypoints/cli/main.py`."""
