#!/bin/sh
# Installs the Debian packages that the tests need (or those named as arguments), when they are missing.
# Kamailio, MariaDB and PostgreSQL would each start a server of their own; RUNLEVEL=1 keeps them from that.
set -eu
packages=${*:-"kamailio kamailio-extra-modules kamailio-tls-modules kamailio-utils-modules kamailio-json-modules sip-tester tshark openssl mariadb-server postgresql chromium prometheus systemd libseccomp2 logrotate"}

missing=""
for package in $packages; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

need="needs Debian packages:$missing  (sudo apt-get install --no-install-recommends$missing)"
command -v apt-get >/dev/null || { echo "hepduck $need" >&2; exit 1; }
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif sudo -n true 2>/dev/null; then
    as_root="sudo"
else
    echo "hepduck $need" >&2
    exit 1
fi
echo "installing:$missing" >&2
log=$(mktemp)
# shellcheck disable=SC2086 - words on purpose
if ! { $as_root apt-get update && $as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    echo "hepduck $need" >&2
    exit 1
fi
rm -f "$log"
