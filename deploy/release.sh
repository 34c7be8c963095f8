#!/bin/sh
# Builds target/dist/pgherd: a release whose layout follows what was counted while pgbench ran through it (profile-guided optimisation).
# Two builds and some minutes of pgbench between them.
set -eu
cd "$(dirname "$0")/.."

# not within Cargo's folder of that profile: `make build` has its binary there
build=$(pwd)/target/dist
counts=$build/counts
host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata

# a named target keeps the flags from build scripts and macros
build_with() {
    RUSTFLAGS="${RUSTFLAGS:-} $1" cargo build --release --locked -p pgherd --target "$host" --target-dir "$build/build"
}

rm -rf "$counts"
build_with "-Cprofile-generate=$counts"
PGHERD=$build/build/$host/release/pgherd python3 -u benches/pgbench/train.py
"$profdata" merge -o "$build/pgherd.profdata" "$counts"
build_with "-Cprofile-use=$build/pgherd.profdata"
cp "$build/build/$host/release/pgherd" "$build/pgherd"
echo "release: target/dist/pgherd"
