#!/bin/sh
# Puts a PgBouncer that pools prepared statements (1.21 or newer) at target/bench/pgbouncer, and what building one needs on the machine.
# Where the distribution has it, it is the distribution's; else it is built from the source package of Debian 13, as anybody is who reads that.
# PGBOUNCER=/path/to/pgbouncer takes one that is there already.
set -eu

repository=$(cd "$(dirname "$0")/../.." && pwd)
place=$repository/target/bench
wanted=1.21

say() { printf 'pgbouncer: %s\n' "$*"; }
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
# whether a program is new enough
fits() {
    found=$("$1" --version 2>/dev/null | sed -n 's/^PgBouncer \([0-9.]*\).*/\1/p')
    [ -n "$found" ] && [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ]
}

mkdir -p "$place"
if [ -n "${PGBOUNCER:-}" ]; then
    fits "$PGBOUNCER" || { say "$PGBOUNCER is not $wanted or newer" >&2; exit 1; }
    ln -sf "$PGBOUNCER" "$place/pgbouncer"
fi
if fits "$place/pgbouncer"; then exit 0; fi
for there in "$(command -v pgbouncer || true)" /usr/sbin/pgbouncer; do
    if [ -n "$there" ] && fits "$there"; then ln -sf "$there" "$place/pgbouncer"; exit 0; fi
done

candidate=$(apt-cache policy pgbouncer 2>/dev/null | sed -n 's/^ *Candidate: \([0-9][0-9.]*\).*/\1/p')
if [ -n "$candidate" ] && [ "$(printf '%s\n' "$wanted" "$candidate" | sort -V | head -n 1)" = "$wanted" ]; then
    say "installing the distribution's $candidate"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends pgbouncer
    ln -sf /usr/sbin/pgbouncer "$place/pgbouncer"
    exit 0
fi

say "building it from Debian's source package"
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
    gcc make pkg-config libc6-dev libevent-dev libssl-dev dpkg-dev debian-archive-keyring
build=$place/build
rm -rf "$build"
mkdir -p "$build/lists/partial" "$build/cache/archives/partial"
echo 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main' >"$build/sources.list"
apt() {
    apt-get -q -o "Dir::Etc::sourcelist=$build/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$build/lists" \
        -o "Dir::Cache=$build/cache" -o APT::Sandbox::User= "$@"
}
cd "$build"
apt update
apt source --download-only pgbouncer
tar -xzf pgbouncer_*.orig.tar.gz
cd pgbouncer-*/
./configure --quiet
make -s
cp pgbouncer "$place/pgbouncer"
cd "$repository"
rm -rf "$build"
fits "$place/pgbouncer"
