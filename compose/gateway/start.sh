#!/bin/sh
# Start LiteLLM. Secrets come from files, so that none stands in argv, `docker inspect` or a rendered file.
# Both runtimes use this script: a container finds the files under /run/secrets, a process under SECRETS_DIRECTORY.
set -eu
secrets=${SECRETS_DIRECTORY:-/run/secrets}
[ -z "${OUTSIDE:-}" ] || . "$OUTSIDE"
LITELLM_MASTER_KEY=$(cat "$secrets/litellm_master_key")
LITELLM_SALT_KEY=$(cat "$secrets/litellm_salt_key")
ENGINE_KEY=$(cat "$secrets/engine_key")
REDIS_PASSWORD=$(cat "$secrets/redis_password")
export LITELLM_MASTER_KEY LITELLM_SALT_KEY ENGINE_KEY REDIS_PASSWORD
# gateway.yaml takes the keys of a cloud's models from variables named as their files.
for name in ${CLOUD_KEYS:-}; do
    key=$(cat "$secrets/$name")
    export "$name=$key"
done
# front.py and its like lie beside this script, in the container as in the checkout.
PYTHONPATH=$(dirname "$0")
export PYTHONPATH PYTHONDONTWRITEBYTECODE=1
# LiteLLM's own name for it (1.108.0, _logging.py); serve.py does the rest.
if [ "${GATEWAY_LOGS:-text}" = json ]; then
    export JSON_LOGS=true
fi
# An empty file means no certificate.
if [ -s "$secrets/tls_certificate" ]; then
    set -- "$@" --ssl_certfile_path "$secrets/tls_certificate" --ssl_keyfile_path "$secrets/tls_key"
fi
# Several workers add their figures up; LiteLLM's own folder for that is one for all stacks of a machine.
if [ "${LITELLM_NUM_WORKERS:-1}" -gt 1 ]; then
    export PROMETHEUS_MULTIPROC_DIR="$GATEWAY_METRICS"
fi
# uvicorn kills a worker that does not answer it within five seconds, which one on busy cores does not, above all while it
# imports LiteLLM. One that has died is noticed at once all the same.
exec "${PYTHON:-python3}" "$PYTHONPATH/serve.py" "$@" --timeout_worker_healthcheck 120
