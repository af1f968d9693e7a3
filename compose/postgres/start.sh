#!/bin/sh
# Start PostgreSQL with pgvector, in a cluster that is made at the first start. The password is read from its file.
# Both runtimes use this script.
set -eu
secrets=${SECRETS_DIRECTORY:-/run/secrets}
. "$(dirname "$0")/programs.sh"

# PostgreSQL refuses to run as root. A process of root's is somebody else in a user namespace of its own, and its files stay
# root's. A container may not make one, but may become somebody else for good, whose files they then are.
# (A rootless engine's container is root's, too; any other one is the user's who configured.)
owner=$(id -u)
become() { "$@"; }
if [ "$owner" = 0 ]; then
    nobody=$(id -u postgres 2> /dev/null || id -u nobody)
    if unshare --user --map-user="$nobody" --map-group="$nobody" true 2> /dev/null; then
        become() { unshare --user --map-user="$nobody" --map-group="$nobody" "$@"; }
    elif setpriv --reuid "$nobody" --regid "$nobody" --clear-groups true 2> /dev/null; then
        owner=$nobody
        become() { setpriv --reuid "$nobody" --regid "$nobody" --clear-groups "$@"; }
    else
        echo "PostgreSQL does not run as root, and here nobody else can: run Stackwright as another user" >&2
        exit 1
    fi
    # Also root may not look into a folder that is another's alone, where a container takes that right: the lock is in it.
    # Its own folder hides the cluster, and DATA_HOME all of it.
    [ "$(stat -c %u "$POSTGRES_DATA")" = "$owner" ] || { chmod go+x "$POSTGRES_DATA"; chown -R "$owner" "$POSTGRES_DATA"; }
elif ! getent passwd "$owner" > /dev/null; then
    # initdb asks for its user's name, and an arbitrary number has none in the image (docker-library/postgres does the same).
    for library in /usr/lib/*/libnss_wrapper.so; do
        printf 'postgres:x:%s:%s::/tmp:/bin/false\n' "$owner" "$(id -g)" > /tmp/passwd
        printf 'postgres:x:%s:\n' "$(id -g)" > /tmp/group
        export LD_PRELOAD="$library" NSS_WRAPPER_PASSWD=/tmp/passwd NSS_WRAPPER_GROUP=/tmp/group
    done
fi

# A newer major version does not read an older one's cluster: each has a folder of its own.
version=$("$bin/postgres" --version | sed 's/.* \([0-9]*\)\..*/\1/')
data=$POSTGRES_DATA/$version lock=$POSTGRES_DATA/lock
become sh -c '[ -e "$1" ] || : > "$1"' sh "$lock"
# Held by the server and all its processes: of one that was killed, some live for a moment longer.
exec 9< "$lock"
flock --exclusive --wait 60 9 || { echo "another PostgreSQL runs in $data" >&2; exit 1; }
if ! become test -d "$data"; then
    # Made beside its place and moved there when it is whole: this can be killed at any moment.
    become rm -rf "$data.new"
    become sh -euc '
        umask 077
        cat > "$2.password"
        "$1/initdb" --pgdata "$2" --username retrieval --pwfile "$2.password" --auth scram-sha-256 --encoding UTF8 \
            --locale-provider builtin --builtin-locale C.UTF-8 --locale C --no-instructions > "$2.log" 2>&1 ||
            { cat "$2.log" >&2; exit 1; }
        rm "$2.password" "$2.log"
        echo "CREATE DATABASE retrieval" | "$1/postgres" --single -D "$2" postgres > /dev/null 2>&1
        echo "host all all all scram-sha-256" >> "$2/pg_hba.conf"
        sync "$2/pg_hba.conf"
        mv "$2" "$3"
    ' sh "$bin" "$data.new" "$data" < "$secrets/retrieval_database_password"
fi
# The lock says that no other server is here, whatever number of a process was left.
become rm -f "$data/postmaster.pid"
unset LD_PRELOAD
# Each worker of the proxy has eight connections at most (compose/retrieval/database.py). Of the memory half is for pages
# that all share, a quarter for building an index; the rest is for sorts and connections.
set -- "$bin/postgres" -D "$data" -c listen_addresses="${POSTGRES_BIND:-*}" -c port="${POSTGRES_PORT:-5432}" \
    -c unix_socket_directories= -c max_connections="$((POSTGRES_WORKERS * 8 + 16))" \
    -c shared_buffers="$((POSTGRES_MEMORY_MIB / 2))MB" -c maintenance_work_mem="$((POSTGRES_MEMORY_MIB / 4))MB" \
    -c effective_cache_size="${POSTGRES_MEMORY_MIB}MB" -c jit=off \
    -c dynamic_shared_memory_type=mmap -c log_min_messages=warning -c log_checkpoints=off
if [ "$(id -u)" != 0 ]; then
    exec "$@"
elif [ "$owner" = 0 ]; then
    exec unshare --user --map-user="$nobody" --map-group="$nobody" "$@"
fi
exec setpriv --reuid "$nobody" --regid "$nobody" --clear-groups "$@"
