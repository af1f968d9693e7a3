#!/bin/sh
# Start Prometheus. Both runtimes use this script, in a folder that is lost at the end: configuration, rules, and a file
# for each target, whose address the runtime has put into a variable SCRAPE_JOB_NUMBER, as JSON.
set -eu
secrets=${SECRETS_DIRECTORY:-/run/secrets}
home=$PROMETHEUS_HOME
rm -rf "$home"
mkdir -p "$home/targets"
cp "$PROMETHEUS_CONFIGURATION" "$home/"
cp "$PROMETHEUS_RULES" "$home/"
ln -s "$secrets" "$home/secrets"
for target in $(env | sed -n 's/^SCRAPE_\([A-Z]*_[0-9]*\)=.*/\1/p'); do
    name=$(echo "$target" | tr '[:upper:]' '[:lower:]')
    eval "printf '[%s]\n' \"\$SCRAPE_$target\"" >"$home/targets/$name.json"
done
# An empty file means no certificate.
if [ -s "$secrets/tls_certificate" ]; then
    sed -i 's/"__scheme__": "http"/"__scheme__": "https"/' "$home"/targets/gateway_*.json
fi
# Debian's leaves the lock out that keeps a second one from the same folder; its maker's has no such option, and locks.
if prometheus --help 2>&1 | grep -q -e --storage.tsdb.use-lockfile; then
    set -- "$@" --storage.tsdb.use-lockfile
fi
exec prometheus --config.file="$home/prometheus.yml" --web.config.file="$secrets/prometheus_web" "$@"
