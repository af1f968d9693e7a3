#!/bin/sh
# Start the exporter of the GPUs' figures; gpu_exporter.py lies beside this script, in the container as in the checkout.
set -eu
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_exporter.py" "$@"
