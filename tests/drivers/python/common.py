"""What the Python programs share: parts that run one after the other, each of which says what it saw."""

import os
import sys
import traceback

# which of the clients that run at once this is: its tables are its own, and its number is in what it reads
CLIENT = int(os.environ.get("CLIENT", "0"))
# whether statements that a sharded database refuses are left out
SHARDED = os.environ.get("TARGET") == "sharded"

_parts = []


def part(function):
    """Names a function as a part of the program."""
    _parts.append(function)
    return function


def say(*values):
    """Prints a line of what is compared."""
    print(*values, flush=True)


def run(driver, version):
    """Runs the parts; one that fails is shown as failed, and the next one runs."""
    say("version", driver, version)
    for function in _parts:
        say("part", function.__name__)
        try:
            function()
        except Exception as error:
            say("FAILED", type(error).__name__, *str(error).splitlines())
            traceback.print_exc(file=sys.stderr)
