#!/bin/sh
# Start vLLM. Secrets come from files, so that none stands in argv, `docker inspect` or a rendered file.
# Both runtimes use this script: a container finds the files under /run/secrets, a process under SECRETS_DIRECTORY.
set -eu
secrets=${SECRETS_DIRECTORY:-/run/secrets}
[ -z "${OUTSIDE:-}" ] || . "$OUTSIDE"
# An engine measures its GPU while it starts, so those on the same GPU come one after another. Compose sees to it by itself.
for address in ${START_AFTER:-}; do
    until "${PYTHON:-python3}" -c '
import sys, urllib.request as u
u.build_opener(u.ProxyHandler({})).open(sys.argv[1], timeout=4)' "$address" 2>/dev/null; do
        echo "waiting for the engine at $address, which is on the same GPU"
        sleep 5
    done
done
# Several engines on one processor would all bind their threads to the same cores. This one keeps descriptor 9 for as long
# as it runs, which tells other stacks that its cores are taken (cores.py).
if [ -n "${ENGINE_PLACES:-}" ] && [ -z "${VLLM_CPU_OMP_THREADS_BIND:-}" ]; then
    set_aside=
    if [ -n "${ENGINE_CORES:-}" ] && mkdir -p "$(dirname "$ENGINE_CORES")" && touch "$ENGINE_CORES"; then
        exec 9>>"$ENGINE_CORES"
        set_aside=$ENGINE_CORES
    fi
    cores=$("${PYTHON:-python3}" "$(dirname "$0")/cores.py" "$ENGINE_PLACES" ${set_aside:+"$set_aside"})
    [ -z "$cores" ] || export VLLM_CPU_OMP_THREADS_BIND="$cores"
fi
# FlashInfer calls the `ninja` of its environment by its name.
case "${PYTHON:-}" in */*) PATH=$(dirname "$PYTHON"):$PATH ;; esac
VLLM_API_KEY=$(cat "$secrets/engine_key")
export VLLM_API_KEY
export HF_TOKEN_PATH="$secrets/hf_token" # huggingface_hub reads it; an empty file means no token
# Of several models that take turns, the one argument is their list: our own program then starts the engine of each.
# Else the module, not the `vllm` command: PyPI's CPU build ships a command that cannot find its own distribution.
asking=
case "${1:-}" in
"{"*)
    asking=--ask-nothing
    set -- -B "$(dirname "$0")/switching/switch.py" "$@"
    ;;
*) set -- -m vllm.entrypoints.openai.api_server "$@" ;;
esac
set -- "${PYTHON:-python3}" "$@"
# shellcheck disable=SC2086  # nothing, or one word
[ "${ENGINE_HEARTBEAT:-off}" = off ] || set -- "${PYTHON:-python3}" -B "$(dirname "$0")/heartbeat/heartbeat.py" $asking "$@"
exec "$@"
