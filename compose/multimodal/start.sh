#!/bin/sh
# Start the multimodal worker. Secrets are read from files by the program itself: none stands in argv or a variable.
# Both runtimes use this script: a container finds the files under /run/secrets, a process under SECRETS_DIRECTORY.
set -eu
umask 077
# The package `multimodal` lies around this script, and the gateway's keys.py beside it, in the container as in the checkout.
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH="$(dirname "$here"):$(dirname "$here")/gateway"
export PYTHONPATH PYTHONDONTWRITEBYTECODE=1
exec "${PYTHON:-python3}" -P -m multimodal.serve "$@"
