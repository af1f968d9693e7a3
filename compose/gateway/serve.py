"""Start LiteLLM's server as its own command does, with connections.py in the place of uvicorn's connections.

LiteLLM's command has no option for it; uvicorn's table of protocols is what its own `--http` chooses from. A worker
process runs this file too before it serves (multiprocessing's way of spawning), so the table holds there as well, and
so does the form of the log.
"""

import os
import sys

from json_lines import write_json

if os.environ.get("JSON_LOGS") == "true":
    # Before anything takes the streams for itself.
    write_json()

import uvicorn.config

uvicorn.config.HTTP_PROTOCOLS["auto"] = "connections:Connection"
# Engines have no realtime API. uvicorn would hand such a connection on to another class, and nobody would count it.
uvicorn.config.WS_PROTOCOLS["auto"] = None

if __name__ == "__main__":
    from litellm.proxy.proxy_cli import run_server  # noqa: TID251  # inside LiteLLM's environment

    sys.exit(run_server())
