#!/bin/sh
# Say whether PostgreSQL takes connections: ready.sh PORT PYTHON
set -eu
PYTHON=$2
. "$(dirname "$0")/programs.sh"
exec "$bin/pg_isready" --quiet --host 127.0.0.1 --port "$1"
