#!/bin/sh
# Start the retrieval proxy. Secrets are read from files by the program itself, so that none stands in argv or a variable.
# Both runtimes use this script: a container finds the files under /run/secrets, a process under SECRETS_DIRECTORY.
set -eu
secrets=${SECRETS_DIRECTORY:-/run/secrets}
[ -z "${OUTSIDE:-}" ] || . "$OUTSIDE"
# The package `retrieval` lies around this script, and the gateway's keys.py beside it, in the container as in the checkout.
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH="$(dirname "$here"):$(dirname "$here")/gateway"
export PYTHONPATH PYTHONDONTWRITEBYTECODE=1
# Forms of some size are put down while they come in: beside the originals, and not in a container's memory.
TMPDIR="$RETRIEVAL_DATA/incoming"
mkdir -p "$TMPDIR" "$PROMETHEUS_MULTIPROC_DIR"
export TMPDIR
rm -f "$PROMETHEUS_MULTIPROC_DIR"/*.db
exec "${PYTHON:-python3}" -m retrieval.serve "$@"
