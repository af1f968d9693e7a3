"""From a hand-written setup (Compose files, scripts with `docker run`, LiteLLM's configuration) to an environment's
wishes.
"""
