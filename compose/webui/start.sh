#!/bin/sh
# Start Open WebUI. Secrets are read from files by the program itself: none stands in argv or `docker inspect`.
# Both runtimes use this script: a container finds the files under /run/secrets, a process under SECRETS_DIRECTORY.
set -eu
# Chats and the gateway's key are in its database.
umask 077
# The gateway's trust.py lies beside this script's folder, in the container as in the checkout.
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH="$(dirname "$here")/gateway"
# The maker's image starts in the folder that has the program, with its pages beside it; an installed package has both
# inside, and has to be told so (open_webui/env.py).
if [ -d open_webui ]; then
    PYTHONPATH="$PWD:$PYTHONPATH"
else
    export FROM_INIT_PY=true
fi
export PYTHONPATH
exec "${PYTHON:-python3}" "$here/webui.py" "$@"
