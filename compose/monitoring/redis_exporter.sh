#!/bin/sh
# Start the exporter of Redis' figures, with the password from a file: it never stands in argv. Its maker's image has
# the program in the root folder, Debian another name for it.
set -eu
REDIS_PASSWORD=$(cat "${SECRETS_DIRECTORY:-/run/secrets}/redis_password")
PATH=$PATH:/
export REDIS_PASSWORD PATH
exec "${REDIS_EXPORTER:-redis_exporter}" "$@"
