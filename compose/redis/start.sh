#!/bin/sh
# Start Redis with its password read from a file: on standard input, so that it never stands in argv.
# Router state is worth nothing after a restart, so nothing is saved to disk.
set -eu
secrets=${SECRETS_DIRECTORY:-/run/secrets}
{
    printf 'requirepass %s\n' "$(cat "$secrets/redis_password")"
    printf 'save ""\nappendonly no\n'
    printf 'bind %s\nport %s\n' "${REDIS_BIND:-0.0.0.0}" "${REDIS_PORT:-6379}"
} | exec redis-server -
