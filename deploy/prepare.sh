#!/bin/sh
# Installs what building and testing pgherd needs on Debian or Ubuntu: a C compiler and make, Rust, Postgres' server binaries
# and psql. Run as root or as a user with sudo; does nothing, quickly, where all is there. With the word `tools` also what only
# `make test` needs: libclang, cargo-deny, and cargo-fuzz where there is a nightly compiler to use it with. With the word `python` also what
# drivers in Python and `make suites` need, with the word `drivers` what the other drivers of `make drivers` do: Node.js, a JDK, Go, Perl and
# Ruby, and those database drivers that come as packages. With the word `regress` what `make regress`
# does: Python. With the word `release` what `make release` does: Python, and the compiler's tool for profiles.
set -eu

repository=$(cd "$(dirname "$0")/.." && pwd)
# rustup puts cargo there, and a login shell may not have read its profile yet
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

say() { printf 'prepare: %s\n' "$*"; }
fail() { printf 'prepare: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        fail "not root, and there is no sudo: run as root: $*"
    fi
}

updated=no
install_packages() {
    has apt-get || fail "no apt-get here: install by hand what stands for $*"
    if [ "$updated" = no ]; then
        as_root apt-get update -q
        updated=yes
    fi
    say "installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

# whether server binaries are found where pgherd looks for them
has_postgres() {
    [ -n "${PGHERD_POSTGRES_BIN:-}" ] && return 0
    for initdb in "$(command -v initdb || true)" /usr/lib/postgresql/*/bin/initdb; do
        [ -n "$initdb" ] && [ -x "${initdb%/*}/postgres" ] && [ -x "${initdb%/*}/pg_ctl" ] && return 0
    done
    return 1
}

# Debian makes and starts a server of its own when the package is installed; nobody asked for that one
install_postgres() {
    install_packages postgresql-common
    conf=/etc/postgresql-common/createcluster.conf
    if [ -f $conf ] && [ ! -e $conf.before-pgherd ]; then
        as_root cp -p $conf $conf.before-pgherd
        trap 'as_root mv -f /etc/postgresql-common/createcluster.conf.before-pgherd /etc/postgresql-common/createcluster.conf' EXIT
        as_root sed -i '$a create_main_cluster = false' $conf
    fi
    install_packages postgresql postgresql-client
    if [ -e $conf.before-pgherd ]; then
        as_root mv -f $conf.before-pgherd $conf
        trap - EXIT
    fi
}

install_rust() {
    say "installing Rust by rustup"
    script=$(mktemp)
    curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs -o "$script"
    # the toolchain of rust-toolchain.toml is fetched below
    sh "$script" -y -q --no-modify-path --profile minimal --default-toolchain none
    rm -f "$script"
}

# what is not there yet, as package names
missing=
has cc || missing="$missing gcc libc6-dev"
has make || missing="$missing make"
has pkg-config || missing="$missing pkg-config"
has curl || missing="$missing curl ca-certificates"
# shellcheck disable=SC2086 # a list of packages
[ -z "$missing" ] || install_packages $missing

has_postgres || install_postgres
has psql || install_packages postgresql-client

wanted=$(sed -n 's/^channel = "\(.*\)"$/\1/p' "$repository/rust-toolchain.toml")
if ! has rustup; then
    # a cargo without rustup is of use only if it is of the wanted version: it does not read rust-toolchain.toml
    case "$(cargo --version 2>/dev/null || true)" in
        "cargo $wanted "*) ;;
        *) install_rust ;;
    esac
fi
if has rustup && ! (cd "$repository" && cargo --version && rustfmt --version && cargo clippy --version) >/dev/null 2>&1; then
    say "fetching Rust $wanted"
    rustup toolchain install "$wanted" --profile minimal --component rustfmt --component clippy
fi

# Postgres does not run as root, so a herd started by root needs somebody else
if [ "$(id -u)" -eq 0 ] && ! id postgres >/dev/null 2>&1; then
    say "adding the user postgres, who runs the servers"
    useradd --system --no-create-home --shell /usr/sbin/nologin postgres
fi

missing=
if [ "${1:-}" = python ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3 python3-venv"
    # pip hands out psycopg2's source package only where there is the libpq to build it with
    pg_config --version >/dev/null 2>&1 || missing="$missing libpq-dev"
elif [ "${1:-}" = drivers ]; then
    has npm || missing="$missing nodejs npm"
    has javac || missing="$missing default-jdk-headless"
    has go || missing="$missing golang-go"
    has ruby || missing="$missing ruby"
    [ -e /usr/share/java/postgresql.jar ] || missing="$missing libpostgresql-jdbc-java"
    perl -MDBD::Pg -e 1 2>/dev/null || missing="$missing libdbd-pg-perl"
    ruby -e 'require "pg"' 2>/dev/null || missing="$missing ruby-pg"
    [ -e /usr/share/gocode/src/github.com/lib/pq ] || missing="$missing golang-github-lib-pq-dev"
    [ -e /usr/share/gocode/src/github.com/jackc/pgx/v4 ] || missing="$missing golang-github-jackc-pgx-v4-dev"
fi
# shellcheck disable=SC2086 # a list of packages
[ -z "$missing" ] || install_packages $missing

if [ "${1:-}" = regress ] || [ "${1:-}" = release ]; then
    has python3 || install_packages python3
fi
if [ "${1:-}" = release ]; then
    has rustup || fail "make release needs rustup, for its component llvm-tools"
    (cd "$repository" && rustup component add llvm-tools)
fi

[ "${1:-}" = tools ] || exit 0

find /usr/lib -name 'libclang.so*' -o -name 'libclang-[0-9]*.so*' | grep -q . || install_packages libclang1
cargo deny --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-deny
if cargo +nightly --version >/dev/null 2>&1 && ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install --locked --quiet cargo-fuzz
fi
