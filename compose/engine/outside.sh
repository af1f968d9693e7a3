# The way out, read by a start script where the plan has a proxy, or authorities beside the public ones.
# A proxy's login comes from a file, so that it stands in no `docker inspect`.
if [ -n "${HTTPS_PROXY:-}" ] && [ -s "$secrets/proxy_login" ]; then
    HTTPS_PROXY="${HTTPS_PROXY%%://*}://$(cat "$secrets/proxy_login")@${HTTPS_PROXY#*://}"
    HTTP_PROXY=$HTTPS_PROXY https_proxy=$HTTPS_PROXY http_proxy=$HTTPS_PROXY
    export HTTPS_PROXY HTTP_PROXY https_proxy http_proxy
fi
# The named bundle would take the place of the public authorities, so both go into one.
if [ -n "${SSL_CERT_FILE:-}" ]; then
    public=$("${PYTHON:-python3}" -c 'import certifi; print(certifi.where())' 2>/dev/null) \
        || public=/etc/ssl/certs/ca-certificates.crt
    case $TRUSTED in /*) ;; *) TRUSTED=$PWD/$TRUSTED ;; esac
    { cat "$public" 2>/dev/null || true; echo; cat "$SSL_CERT_FILE"; } >"$TRUSTED"
    SSL_CERT_FILE=$TRUSTED REQUESTS_CA_BUNDLE=$TRUSTED CURL_CA_BUNDLE=$TRUSTED
    export SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
fi
