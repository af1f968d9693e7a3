"""vLLM: arguments, images, memory rules, parsers, media. Pure."""
