#!/bin/sh
# Makes a deposed primary, or a standby that went astray, a standby of its shard's primary again: pgherd's `rejoin_command`. It stops
# the server, whatever is left of it, rewinds its data directory by pg_rewind, puts its own configuration back, and starts it as a
# standby; it returns when the primary streams to it. Where it fails it says why on its standard error and exits with 1; then
# the server is down or is a standby, never a second primary. Interrupted at any point, it can be called again.
#
#   rejoin.sh --data DIRECTORY [options]
#     --data DIRECTORY    the server's data directory
#     --bin DIRECTORY     where pg_ctl and pg_rewind are; else those of the data directory's version in /usr/lib/postgresql, or in PATH
#     --config FILE       postgresql.conf, where it is not in the data directory (Debian: /etc/postgresql/15/main/postgresql.conf)
#     --log FILE          where the server's output goes, for pg_ctl; else none is kept
#     --start COMMAND     starts the server in place of pg_ctl, as in "systemctl start postgresql@15-main"
#     --stop COMMAND      is called before the server is stopped here, so that its supervisor does not start it again
#     --ssh HOST          runs all of this on that host; this file need not be there
#     --base-backup       where a rewind cannot be, copy everything from the primary; the old directory is then removed
#     --wait SECONDS      how long to wait for what others do: a stop, a checkpoint, a stream (60)
#
# In the environment, from pgherd:
#   PGHERD_SERVER            the server's name
#   PGHERD_PRIMARY_HOST, PGHERD_PRIMARY_PORT   where the primary is
#   PGHERD_PRIMARY_CONNINFO  what primary_conninfo becomes; its application_name is looked for on the primary
#   PGHERD_PRIMARY_SLOT      what primary_slot_name becomes; may be missing
#   PGHERD_SHARD, PGHERD_EPOCH   are for the log
# and from whoever writes the command:
#   PGHERD_REWIND_USER       who pg_rewind logs in as on the primary (postgres), a superuser or a role that may read its files
#                            (README.md beside this file has the grants)
#   PGHERD_REWIND_PASSWORD   its password, where no passfile has it
#   PGHERD_REWIND_DATABASE   where it logs in (postgres)
#
# It runs as the user who owns the data directory, or as root, and then does everything there as that user. Linux only: processes are
# found in /proc. What an interrupted run needs is kept in DIRECTORY.rejoin until the end. As a command of pgherd:
#
#   rejoin_command: 'PGHERD_REWIND_USER=rewind deploy/rejoin.sh --data /srv/$PGHERD_SERVER'              # on this host
#   rejoin_command: 'deploy/rejoin.sh --ssh postgres@$PGHERD_SERVER.db --data /var/lib/postgresql/15/main
#                    --config /etc/postgresql/15/main/postgresql.conf --start "sudo systemctl start postgresql@15-main"'
set -eu
LC_ALL=C
export LC_ALL
umask 077

say() { printf 'rejoin %s: %s\n' "${PGHERD_SERVER:-${data:-}}" "$*" >&2; }
fail() { say "$*"; exit 1; }

# a word as the shell reads it
quoted() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

arguments=
bin= config= data= log= start= stop= ssh= base_backup=no limit=60
while [ $# -gt 0 ]; do
    case $1 in
        --base-backup) base_backup=yes ;;
        --bin | --config | --data | --log | --start | --stop | --ssh | --wait)
            [ $# -ge 2 ] || fail "$1 takes a value"
            case $1 in
                --bin) bin=$2 ;;
                --config) config=$2 ;;
                --data) data=${2%/} ;;
                --log) log=$2 ;;
                --start) start=$2 ;;
                --stop) stop=$2 ;;
                --ssh) ssh=$2 ;;
                --wait) limit=$2 ;;
            esac
            if [ "$1" != --ssh ]; then arguments="$arguments $1 $(quoted "$2")"; fi
            shift 2
            continue ;;
        *) fail "$1 is no option of this command" ;;
    esac
    arguments="$arguments $1"
    shift
done
[ -n "$data" ] || fail "--data DIRECTORY is missing"
: "${PGHERD_PRIMARY_CONNINFO:?is not set: pgherd sets it for its rejoin_command}"
: "${PGHERD_PRIMARY_HOST:?is not set: pgherd sets it for its rejoin_command}"
: "${PGHERD_PRIMARY_PORT:?is not set: pgherd sets it for its rejoin_command}"

if [ -n "$ssh" ]; then
    # passwords go by standard input: a command line is everybody's to read
    {
        for name in SERVER SHARD EPOCH PRIMARY_HOST PRIMARY_PORT PRIMARY_CONNINFO PRIMARY_SLOT REWIND_USER REWIND_PASSWORD REWIND_DATABASE; do
            eval "value=\${PGHERD_$name-}"
            # shellcheck disable=SC2154 # set by eval
            if [ -n "$value" ]; then printf 'export PGHERD_%s=%s\n' "$name" "$(quoted "$value")"; fi
        done
        printf 'set --%s\n' "$arguments"
        cat "$0"
    } | ssh -o BatchMode=yes "$ssh" "sh -c 'eval \"\$(cat)\"'"
    exit
fi

[ -f "$data/PG_VERSION" ] || fail "$data is no data directory"
data=$(cd "$data" && pwd -P)
if [ -z "$bin" ]; then
    bin=/usr/lib/postgresql/$(cat "$data/PG_VERSION")/bin
    [ -x "$bin/pg_rewind" ] || bin=$(dirname "$(command -v pg_rewind || echo /nowhere/pg_rewind)")
fi
[ -x "$bin/pg_rewind" ] && [ -x "$bin/pg_ctl" ] || fail "no pg_ctl and pg_rewind in $bin: name their directory with --bin"
psql=$bin/psql
[ -x "$psql" ] || psql=$(command -v psql) || fail "no psql in $bin or PATH"
kept=$data.rejoin
config=${config:-$data/postgresql.conf}
case $config in "$data"/*) config_option= ;; *) config_option=$config ;; esac

owner=$(stat -c %u "$data")
group=$(stat -c %g "$data")
# runs a command as the owner of the data directory
as_owner() {
    if [ "$(id -u)" = "$owner" ]; then
        "$@"
    elif command -v setpriv >/dev/null; then
        setpriv --reuid="$owner" --regid="$group" --clear-groups -- "$@"
    else
        runuser -u "$(stat -c %U "$data")" -- "$@"
    fi
}
[ "$(id -u)" = "$owner" ] || [ "$(id -u)" = 0 ] || fail "only root and the owner of $data can do this"
[ "$owner" != 0 ] || fail "$data is root's, and Postgres does not run as root"
# where the owner may be
cd /

# what the primary is asked
primary="host=$PGHERD_PRIMARY_HOST port=$PGHERD_PRIMARY_PORT user=${PGHERD_REWIND_USER:-postgres} dbname=${PGHERD_REWIND_DATABASE:-postgres} connect_timeout=10 application_name=rejoin"
if [ -n "${PGHERD_REWIND_PASSWORD:-}" ]; then
    PGPASSWORD=$PGHERD_REWIND_PASSWORD
    export PGPASSWORD
fi
ask() { as_owner "$psql" -X -A -t -q -v ON_ERROR_STOP=1 -d "$primary" -c "$1"; }

# calls a function every fifth of a second until it is true, within the limit
until_true() {
    tries=$((limit * 5))
    while ! "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.2
    done
}

# the end of an error message, in one line
words() { grep -v '^$' "$1" | tail -n 3 | tr -s '\n\t' ' ' || true; }

# a line of pg_controldata
control() { as_owner "$bin/pg_controldata" "$data" | sed -n "s/^$1: *//p"; }

# every process of the server, orphans of a killed postmaster too: nobody else works in its data directory
processes() {
    find /proc -maxdepth 2 -path '/proc/[0-9]*/cwd' -lname "$data" 2>/dev/null | while IFS=/ read -r _ _ process _; do
        case $(readlink "/proc/$process/exe" 2>/dev/null) in */postgres | */postgres' (deleted)') echo "$process" ;; esac
    done
}
no_process() { [ -z "$(processes)" ]; }
signal_all() {
    for process in $(processes); do
        # it may have ended meanwhile
        kill "-$1" "$process" 2>/dev/null || true
    done
}

stop_server() {
    if [ -n "$stop" ]; then sh -c "$stop" </dev/null 9<&- || fail "the command of --stop failed: $stop"; fi
    if no_process; then
        rm -f "$data/postmaster.pid"
        return 0
    fi
    say "stopping the server"
    # one that was frozen hears nothing else
    signal_all CONT
    seconds=$(((limit + 2) / 3))
    as_owner "$bin/pg_ctl" stop -D "$data" -m fast -w -t $seconds >/dev/null 2>&1 ||
        as_owner "$bin/pg_ctl" stop -D "$data" -m immediate -w -t $seconds >/dev/null 2>&1 || true
    if ! no_process; then
        say "killing what does not stop"
        signal_all KILL
        until_true no_process || fail "processes of the server do not end: $(processes | tr '\n' ' ')"
    fi
    # whose number is meanwhile another process's would keep a start from being
    rm -f "$data/postmaster.pid"
}

# after a crash: what the WAL has is replayed, by nobody who would listen for clients; pg_rewind wants it so
shut_down_cleanly() {
    case $(control 'Database cluster state') in
        'shut down' | 'shut down in recovery') return 0 ;;
    esac
    if [ -e "$data/standby.signal" ]; then
        say "the standby was not shut down: it is started once, alone"
        sockets=$kept/sockets
        as_owner mkdir -p "$sockets"
        as_owner "$bin/pg_ctl" start -D "$data" -w -t "$limit" -l "$kept/recovery.log" ${config_option:+-o "-c config_file=$config_option"} \
            -o "-c primary_conninfo= -c listen_addresses= -c unix_socket_directories=$sockets" </dev/null >/dev/null 9<&- ||
            fail "the standby does not start: $(words "$kept/recovery.log")"
        as_owner "$bin/pg_ctl" stop -D "$data" -m fast -w -t "$limit" >/dev/null || fail "the standby does not stop"
        return 0
    fi
    say "recovering from the crash"
    as_owner "$bin/postgres" --single -D "$data" ${config_option:+-c "config_file=$config_option"} template1 </dev/null >"$kept/recovery.log" 2>&1 ||
        fail "crash recovery failed: $(words "$kept/recovery.log")"
}

primary_is_one() { [ "$(ask 'SELECT pg_is_in_recovery()' 2>"$errors")" = f ]; }

# pg_rewind reads the primary's timeline in its control file, which has it from the first checkpoint after the promotion on
timeline_is_told() {
    [ "$(ask "SELECT (SELECT timeline_id FROM pg_control_checkpoint()) = ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int" 2>"$errors")" = t ]
}

check_primary() {
    until_true primary_is_one || fail "the primary at $PGHERD_PRIMARY_HOST:$PGHERD_PRIMARY_PORT is none, or does not answer: $(words "$errors")"
    if ! timeline_is_told; then
        ask CHECKPOINT >/dev/null 2>&1 || say "waiting for the primary's checkpoint: ${PGHERD_REWIND_USER:-postgres} may not ask for one"
        until_true timeline_is_told || fail "the primary has made no checkpoint since its promotion: run CHECKPOINT there $(words "$errors")"
    fi
    identifier=$(ask 'SELECT system_identifier FROM pg_control_system()')
    [ "$identifier" = "$(control 'Database system identifier')" ] ||
        fail "the primary is another cluster: its system identifier is $identifier, here it is $(control 'Database system identifier')"
    timeline=$(ask 'SELECT timeline_id FROM pg_control_checkpoint()')
}

# a WAL segment's name without its timeline, for an LSN
segment_of() {
    size=$(control 'Bytes per WAL segment')
    printf '%08X%08X' "$((0x${1%/*}))" "$((0x${1#*/} / size))"
}

# Copies what pg_rewind overwrites and would need again: the configuration, which it brings from the primary, port and name included, and
# the WAL since the last common checkpoint, by which it finds the blocks to bring. $1 is that checkpoint.
keep() {
    rm -rf "$kept/wal"
    as_owner mkdir -p "$kept/wal"
    from=$(segment_of "$1")
    for segment in "$data"/pg_wal/[0-9A-F]*; do
        name=${segment##*/}
        # fewer than 24 digits is no segment, and .partial is of no use
        case $name in *.* | *[!0-9A-F]*) continue ;; esac
        number=${name#????????}
        if [ ${#name} = 24 ] && ! [ "$number" \< "$from" ]; then as_owner cp -p "$segment" "$kept/wal/"; fi
    done
    keep_configuration
    remember
}

remember() {
    echo "$timeline" | as_owner tee "$kept/timeline" >/dev/null
    sync
    as_owner touch "$kept/complete"
}

keep_configuration() {
    rm -rf "$kept/own"
    as_owner mkdir -p "$kept/own"
    for file in "$data"/*.conf "$data"/*.crt "$data"/*.key "$data"/*.pem; do
        if [ -f "$file" ] && [ ! -L "$file" ]; then as_owner cp -p "$file" "$kept/own/"; fi
    done
}

# whether pg_rewind has done all but the last bit of its work: what was shut down before is now a backup to recover from
is_rewound() { [ -e "$kept/rewound" ] || [ "$(control 'Database cluster state')" = 'in archive recovery' ]; }

# Rewinds; where that cannot be, `why_not` says why. Never called as a condition: then the shell would go on where a command fails.
rewind() {
    why_not=
    if [ -e "$kept/complete" ]; then
        if is_rewound; then
            say "the interrupted rewind was complete"
            return 0
        fi
        if [ "$(cat "$kept/timeline")" != "$timeline" ]; then
            why_not="a rewind to timeline $(cat "$kept/timeline") was interrupted, and the primary is on timeline $timeline now (if the directory was restored since: remove $kept)"
            return 0
        fi
        say "going on with the interrupted rewind"
        for segment in "$kept"/wal/*; do
            if [ -f "$segment" ]; then as_owner cp -p "$segment" "$data/pg_wal/"; fi
        done
    else
        shut_down_cleanly
        if ! as_owner "$bin/pg_rewind" --dry-run --target-pgdata="$data" --source-server="$primary" >"$kept/rewind.log" 2>&1; then
            why_not=$(rewind_error)
            return 0
        fi
        if grep -q 'no rewind required' "$kept/rewind.log"; then
            say "nothing to rewind"
            return 0
        fi
        common=$(sed -n 's/.*rewinding from last common checkpoint at \([0-9A-F]*\/[0-9A-F]*\) .*/\1/p' "$kept/rewind.log")
        keep "${common:-0/0}"
    fi
    say "rewinding to timeline $timeline"
    if as_owner "$bin/pg_rewind" --write-recovery-conf --target-pgdata="$data" --source-server="$primary" >"$kept/rewind.log" 2>&1; then
        as_owner touch "$kept/rewound"
    else
        why_not=$(rewind_error)
    fi
}

rewind_error() { printf 'pg_rewind failed: %s' "$(words "$kept/rewind.log")"; }

copy_all() {
    say "copying everything from the primary"
    rm -rf "$data.copy"
    # its owner may not be allowed to make it there
    mkdir "$data.copy"
    if [ "$(id -u)" = 0 ]; then chown "$owner:$group" "$data.copy"; fi
    if [ ! -e "$kept/complete" ]; then
        rm -rf "$kept/wal"
        keep_configuration
        remember
    fi
    (
        # the stream's login, whose conninfo has its own password
        unset PGPASSWORD
        as_owner "$bin/pg_basebackup" -D "$data.copy" -d "$PGHERD_PRIMARY_CONNINFO" -X stream -c fast --no-password
    ) >"$kept/rewind.log" 2>&1 || fail "pg_basebackup failed: $(words "$kept/rewind.log")"
    as_owner touch "$data.copy/standby.signal"
    mv "$data" "$data.before" && mv "$data.copy" "$data" || fail "$data cannot be replaced: the copy is in $data.copy, the old one in $data or $data.before"
    rm -rf "$data.before"
    as_owner touch "$kept/rewound"
}

# a value as postgresql.conf quotes it
setting() { printf "%s = '%s'\n" "$1" "$(printf '%s' "$2" | sed "s/['\\\\]/&&/g")"; }

configure() {
    # before everything else: from here on a start by anybody is a standby's
    as_owner touch "$data/standby.signal"
    rm -f "$data/recovery.signal"
    if [ -e "$kept/complete" ]; then
        for file in "$kept"/own/*; do
            if [ -f "$file" ]; then as_owner cp -p "$file" "$data/"; fi
        done
    fi
    auto=$data/postgresql.auto.conf
    managed='^ *(primary_conninfo|primary_slot_name|synchronous_standby_names|default_transaction_read_only) *='
    {
        if [ -f "$auto" ]; then grep -E -v "$managed" "$auto" || true; fi
        setting primary_conninfo "$PGHERD_PRIMARY_CONNINFO"
        setting primary_slot_name "${PGHERD_PRIMARY_SLOT:-}"
    } | as_owner tee "$auto.new" >/dev/null
    as_owner mv -f "$auto.new" "$auto"
    # slots of its time as a primary would keep WAL for ever
    rm -rf "$data"/pg_replslot/*
    sync
}

# so much of the log is the past's
log_size() { if [ -n "$log" ] && [ -f "$log" ]; then wc -c <"$log"; else echo 0; fi; }
last_words() { if [ -n "$log" ]; then tail -c "+$((logged + 1))" "$log" | grep -E 'FATAL|PANIC|ERROR' | tail -n 2 | tr '\n' ' '; fi; }

start_server() {
    say "starting as a standby"
    logged=$(log_size)
    if [ -n "$start" ]; then
        sh -c "$start" </dev/null 9<&- || fail "the command of --start failed: $start"
    else
        as_owner "$bin/pg_ctl" start -D "$data" -w -t "$limit" -s -l "${log:-/dev/null}" ${config_option:+-o "-c config_file=$config_option"} </dev/null >"$errors" 2>&1 9<&- ||
            fail "the server does not come up as a standby: $(last_words)$(words "$errors")"
    fi
}

standby=$(printf '%s\n' "$PGHERD_PRIMARY_CONNINFO" | sed -n "s/.*application_name *= *'\{0,1\}\([^' ]*\).*/\1/p")
standby=${standby:-${PGHERD_SERVER:-walreceiver}}
streams() {
    [ "$(ask "SELECT 1 FROM pg_stat_replication WHERE application_name = '$(printf '%s' "$standby" | sed "s/'/''/g")' AND state = 'streaming' LIMIT 1" 2>"$errors")" = 1 ]
}
streams_or_ended() { streams || no_process; }

wait_for_stream() {
    until_true streams_or_ended || true
    if no_process; then fail "the server ended: $(last_words)"; fi
    streams || fail "the standby runs, but the primary does not stream to $standby: $(last_words)$(words "$errors")"
}

# ---

# held by the programs that it runs, too: a pg_rewind whose caller was killed is waited for
exec 9<"$data"
flock -w "$limit" 9 || fail "another rejoin of this server is running"
mkdir -p "$kept"
errors=$kept/errors
: >"$errors"
if [ "$(id -u)" = 0 ]; then chown "$owner:$group" "$kept" "$errors"; fi

stop_server
check_primary
rewind
if [ -n "$why_not" ]; then
    [ "$base_backup" = yes ] || fail "$why_not: only a copy of the primary helps (--base-backup)"
    say "$why_not"
    copy_all
fi
configure
start_server
wait_for_stream
rm -rf "$kept"
say "is a standby of $PGHERD_PRIMARY_HOST:$PGHERD_PRIMARY_PORT"
