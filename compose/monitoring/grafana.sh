#!/bin/sh
# Start Grafana with its data source and dashboards, in a folder that is lost at the end. Passwords come from files:
# they stand in this process' environment, and Grafana itself puts them where `$NAME` stands.
set -eu
secrets=${SECRETS_DIRECTORY:-/run/secrets}
GF_SECURITY_ADMIN_PASSWORD=$(cat "$secrets/grafana_password")
PROMETHEUS_PASSWORD=$(cat "$secrets/prometheus_password")
home=$(mkdir -p "$GRAFANA_HOME" && cd "$GRAFANA_HOME" && pwd)
GF_PATHS_PROVISIONING=$home/provisioning
GF_PATHS_PLUGINS=$home/plugins
GF_PATHS_LOGS=$home/logs
export GF_SECURITY_ADMIN_PASSWORD PROMETHEUS_PASSWORD GF_PATHS_PROVISIONING GF_PATHS_PLUGINS GF_PATHS_LOGS
mkdir -p "$home/dashboards" "$GF_PATHS_PLUGINS" "$GF_PATHS_LOGS"
for folder in access-control alerting dashboards datasources plugins; do mkdir -p "$GF_PATHS_PROVISIONING/$folder"; done
for file in "$@"; do cp "$file" "$home/dashboards/"; done
cat >"$GF_PATHS_PROVISIONING/dashboards/stackwright.yaml" <<END
apiVersion: 1
providers:
  - {name: stackwright, type: file, options: {path: "$home/dashboards"}}
END
cat >"$GF_PATHS_PROVISIONING/datasources/stackwright.yaml" <<END
apiVersion: 1
datasources:
  - name: Prometheus
    uid: prometheus
    type: prometheus
    access: proxy
    url: "http://$PROMETHEUS_ADDRESS"
    isDefault: true
    basicAuth: true
    basicAuthUser: stackwright
    secureJsonData: {basicAuthPassword: "\$PROMETHEUS_PASSWORD"}
    jsonData: {httpMethod: POST, timeInterval: "${SCRAPE_S}s"}
END
exec grafana server --homepath="${GF_PATHS_HOME:-/usr/share/grafana}"
