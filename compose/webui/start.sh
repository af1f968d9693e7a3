#!/bin/sh
# Start Open WebUI. Secrets come from files, so that none stands in argv, `docker inspect` or a rendered file.
# Both runtimes use this script: a container finds the files under /run/secrets, a process under SECRETS_DIRECTORY.
set -eu
# Chats and the gateway's key are in its database.
umask 077
secrets=${SECRETS_DIRECTORY:-/run/secrets}
WEBUI_SECRET_KEY=$(cat "$secrets/webui_secret_key")
OPENAI_API_KEY=$(cat "$secrets/webui_gateway_key")
OPENAI_API_BASE_URL=http://$WEBUI_GATEWAY/v1
# An empty file means no certificate.
if [ -s "$secrets/tls_certificate" ]; then
    OPENAI_API_BASE_URL=https://$WEBUI_GATEWAY/v1
    export WEBUI_GATEWAY_CERTIFICATE="$secrets/tls_certificate"
fi
export WEBUI_SECRET_KEY OPENAI_API_KEY OPENAI_API_BASE_URL
# The maker's image starts in the folder that has the program, with its pages beside it; an installed package has both
# inside, and has to be told so (open_webui/env.py).
if [ -d open_webui ]; then
    export PYTHONPATH="$PWD"
else
    export FROM_INIT_PY=true
fi
exec "${PYTHON:-python3}" "$(dirname "$0")/webui.py" "$@"
