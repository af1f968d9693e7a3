"""See `benchmarks/serve.py`."""
