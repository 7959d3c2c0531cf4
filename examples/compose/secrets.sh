#!/bin/sh
# Makes the passwords and keys of docker-compose.yml in ./secrets, each once: what is there stays.
# The folder is yours alone; the files in it are readable, because the containers' users are others.
set -eu
cd "$(dirname "$0")"
umask 022
mkdir -p secrets
chmod 700 secrets
cd secrets

chance() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
keep() { # NAME, from standard input, unless it is there
    if [ -s "$1" ]; then cat >/dev/null; else cat >"$1.new" && mv "$1.new" "$1"; fi
}

for name in postgres_password interdict_password redis_password grafana_password metrics_key admin_key; do
    chance | keep "$name"
done
echo "whsec_$(head -c 32 /dev/urandom | base64 | tr -d '\n')" | keep webhook_secret
# A line of a Redis configuration, so that the password is on no command line.
echo "requirepass $(cat redis_password)" | keep redis_auth.conf
hash() { sha256sum <"$1" | cut -d ' ' -f 1; }
keep keys.toml <<KEYS
[[key]]
name = "prometheus"
sha256 = "$(hash metrics_key)"
roles = ["read"]

[[key]]
name = "admin"
sha256 = "$(hash admin_key)"
roles = ["decide", "read", "label", "admin"]
KEYS
echo "secrets in $(pwd); the key for requests is in admin_key, Grafana's password in grafana_password"
