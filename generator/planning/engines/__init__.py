"""One module per engine: plan in, argument list and environment out. Pure."""
