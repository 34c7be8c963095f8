#!/bin/sh
# Turns the primary of a planned switchover, which has sent all it has, into a standby of its successor, without a rewind: pgherd's
# `demote_command`. A fast stop, standby.signal, a start; options and environment are those of rejoin.sh, which see.
exec "$(dirname "$0")/rejoin.sh" --demote "$@"
