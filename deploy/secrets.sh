#!/usr/bin/env bash
# Makes deploy/secrets/ (or $PHALANX_SECRETS), once: what is there already stays as it is. The folder is its owner's alone; the files in it can be read by the
# containers' users, who see the folder not at all and each only the files that compose.yaml gives them.
#   PHALANX='docker run --rm --network none phalanx:0.1.0' deploy/secrets.sh
# $PHALANX makes the admin key; without it: phalanx on the PATH, else the image.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
folder="${PHALANX_SECRETS:-secrets}"
mkdir -p "$folder"
cd "$folder"

random() { od -An -v -N "$1" -tx1 /dev/urandom | tr -d ' \n'; }

# name text: a secret that is not there yet.
keep() {
  [ -s "$1" ] && return
  printf '%s' "$2" >"$1.new"
  chmod 0444 "$1.new"
  mv "$1.new" "$1"
  echo "made $folder/$1"
}

if [ ! -s admin_key ]; then
  if [ -z "${PHALANX:-}" ]; then
    PHALANX="$(command -v phalanx || echo "docker run --rm --network none phalanx:${PHALANX_VERSION:-0.1.0}")"
  fi
  # On purpose in words: it may be a command with arguments.
  # shellcheck disable=SC2086
  keep admin_key "$($PHALANX admin-key)"
fi
keep master_key "$(random 32)"
keep postgres_password "$(random 24)"
# The owner's, who alone may change the schema.
keep store_url "postgres://phalanx:$(cat postgres_password)@postgres:5432/phalanx"
users=""
for role in gateway deployer executor monitor; do
  keep "store_$role" "postgres://phalanx_$role:$(random 24)@postgres:5432/phalanx"
  keep "bus_$role" "nats://$role:$(random 24)@nats:4222"
  password="$(sed -E 's|nats://[^:]+:([0-9a-f]+)@.*|\1|' "bus_$role")"
  users+="${role^^}_PASSWORD: \"$password\""$'\n'
done
keep nats_users "$users"
keep grafana_password "$(random 16)"
