# Two commands: `make demo` and `make test`. Both work in a fresh clone on a fresh Debian or Ubuntu, as root or as a user with sudo.

SHELL := /bin/sh
# other flags than make's own keep it from starting programs itself, by the PATH it was called with
.SHELLFLAGS := -euc
# where rustup puts cargo when deploy/prepare.sh has just installed it
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

# where cargo builds
TARGET := $(or $(CARGO_TARGET_DIR),target)
# how long each fuzz target runs within `make test`, in seconds
FUZZ_SECONDS ?= 10
# options of the demo, as in: make demo DEMO="--shards 2 --port 7432"
DEMO ?=

.PHONY: help demo build release test prepare tools format lint unit docs deny grammar fuzz fuzz-sql chaos faults drivers drivers-quick drivers-tested drivers-built drivers-python drivers-rust suites regress bench bench-idle bench-instructions

help:
	@echo 'make demo   starts a herd of real Postgres servers behind pgherd, with a shop in it'
	@echo 'make test   every check and every test'
	@echo 'make build  target/release/pgherd'
	@echo 'make release    target/dist/pgherd: the same, optimised by what was counted while pgbench ran'
	@echo 'make chaos  1,000 clients that come and go at random for two minutes: SEED=.. CHAOS_CLIENTS=1000 CHAOS_SECONDS=120'
	@echo '            then primaries that fail under load, which `make faults` does alone: FAULTS=1,3,21 REPEAT=1'
	@echo 'make drivers    database drivers on pgherd and on plain Postgres: DRIVERS="psycopg pgx" for some of them'
	@echo 'make suites     test suites of asyncpg, psycopg2 and SQLAlchemy through pgherd: SUITES="asyncpg psycopg2" for some of them'
	@echo 'make regress    Postgres'"'"' own regression tests through pgherd: REGRESS="join portals" for some of them'
	@echo 'make bench      pgbench beside plain Postgres, through PgBouncer and through pgherd: BENCH="--rounds 3 select" for some of it'
	@echo 'make bench-idle what idle clients cost in memory'
	@echo 'make fuzz-sql N=20000   random statements, here and on one Postgres: SEED=.. SHARDS=1,3,4 REPLICAS=1'

demo: build
	target/release/pgherd demo $(DEMO)

build: prepare
	cargo build --release --locked -p pgherd

# a quarter of an hour on two cores
release:
	@deploy/prepare.sh release
	deploy/release.sh

test: tools
	@$(MAKE) --no-print-directory format lint unit docs deny grammar fuzz drivers-tested
	@echo 'make test: all passed'

prepare:
	@deploy/prepare.sh

# what only `make test` needs
tools:
	@deploy/prepare.sh tools

format:
	cargo fmt --all --check

lint:
	cargo clippy --workspace --all-targets --locked -- -D warnings

# the end-to-end tests run the binary
unit:
	cargo build --locked -p pgherd
	cargo test --workspace --locked

docs:
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

# advisories are fetched from the network, the rest is in the tree
deny:
	cargo deny check bans licenses sources
	@cargo deny check advisories || echo 'deny: the advisories were not checked, or one concerns us (see above)'

# the lexer and the planner against Postgres' own scanner and grammar, whose bindings are made with libclang
grammar:
	BINDGEN_EXTRA_CLANG_ARGS="-I$$(cc -print-file-name=include)" \
		cargo test --locked --manifest-path grammar/Cargo.toml

# a smoke run of each fuzz target; they need a nightly compiler
fuzz:
	@if ! cargo +nightly fuzz --version >/dev/null 2>&1; then echo 'fuzz: skipped, no nightly toolchain is installed'; \
	else set -e; for target in $$(cargo +nightly fuzz list); do \
		echo "fuzz: $$target for $(FUZZ_SECONDS) s"; \
		if ! cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=65536 >target/fuzz.log 2>&1; \
		then cat target/fuzz.log; exit 1; fi; tail -n 1 target/fuzz.log; \
	done; fi

# random statements on one plain Postgres and through pgherd: any number, from any seed, over any numbers of shards
N ?= 20000
SEED ?=
SHARDS ?= 1,3,4
REPLICAS ?= 0
fuzz-sql: prepare
	cargo build --locked -p pgherd
	N=$(N) SHARDS='$(SHARDS)' REPLICAS=$(REPLICAS) $(if $(SEED),SEED=$(SEED)) \
		cargo test --locked -p pgherd-tests --test oracle -- --ignored --nocapture any_number

# the memory of 10,000 idle clients, without TLS and with
bench-idle: build
	PGHERD_BINARY=$(CURDIR)/target/release/pgherd cargo run --release --quiet --locked -p pgherd-benches --bin idle_clients

# clients that come and go, cancel and disconnect in the middle of anything, on one server and over three shards; and what failures of a
# primary cost, in a table: FAULTS=1,3,21 for some of them, REPEAT=20 for those three that often
CHAOS_CLIENTS ?= 1000
CHAOS_SECONDS ?= 120
FAULTS ?=
REPEAT ?= 1
chaos: prepare
	cargo build --locked -p pgherd
	CHAOS_CLIENTS=$(CHAOS_CLIENTS) CHAOS_SECONDS=$(CHAOS_SECONDS) $(if $(SEED),SEED=$(SEED)) \
		cargo test --locked -p pgherd-tests --test chaos -- --nocapture
	$(MAKE) --no-print-directory faults

faults: prepare
	cargo build --locked -p pgherd
	$(if $(FAULTS),FAULTS=$(FAULTS)) REPEAT=$(REPEAT) RUST_BACKTRACE=0 \
		cargo test --locked -p pgherd-tests --test failover -- --ignored --nocapture

# database drivers print through pgherd what they print on plain Postgres: all, or some
DRIVERS ?=
BESIDE := cargo run --quiet --locked -p pgherd-tests --example endpoints -- python3 -u
drivers: drivers-built
	$(BESIDE) tests/drivers/run.py $(DRIVERS)

# those that take less than two minutes together, and need nothing but Rust and Python
drivers-quick: drivers-python drivers-rust
	$(BESIDE) tests/drivers/run.py psql tokio-postgres sqlx psycopg

# those within `make test`, which also runs where no packages can be fetched for them
drivers-tested:
	@mkdir -p target; if $(MAKE) --no-print-directory drivers-python >target/drivers.log 2>&1 \
		&& cargo fetch --quiet --locked --manifest-path tests/drivers/rust/sqlx/Cargo.toml >>target/drivers.log 2>&1; then $(MAKE) --no-print-directory drivers-quick; \
	else echo 'drivers: skipped, their packages cannot be fetched (target/drivers.log says why)'; fi

# the drivers that do not come as packages, in target/drivers, and the programs that are compiled
drivers-built: drivers-python drivers-rust
	@deploy/prepare.sh drivers
	cp tests/drivers/node/package.json target/drivers/
	npm install --prefix target/drivers --no-package-lock --no-audit --no-fund --silent
	mkdir -p target/drivers/java
	javac -cp /usr/share/java/postgresql.jar -d target/drivers/java tests/drivers/java/PgjdbcClient.java
	for driver in libpq pgx; do GO111MODULE=off GOPATH=/usr/share/gocode go build -o target/drivers/$$driver-client ./tests/drivers/go/$$driver; done

drivers-python:
	@deploy/prepare.sh python
	mkdir -p target/drivers
	test -x target/drivers/venv/bin/python || python3 -m venv target/drivers/venv
	target/drivers/venv/bin/pip install --quiet --requirement tests/drivers/python/requirements.txt

drivers-rust: prepare
	cargo build --locked -p pgherd
	cargo build --locked -p pgherd-tests --examples
	cargo build --locked --manifest-path tests/drivers/rust/sqlx/Cargo.toml --target-dir $(TARGET)

# test suites that others wrote, which end through pgherd as on plain Postgres; fetched when they run: SUITES="asyncpg psycopg2" for some of them
SUITES ?=
suites: drivers-python drivers-rust
	POOL_SIZE=50 $(BESIDE) tests/suites/run.py $(SUITES)

# Postgres' own regression tests, from the source package of the installed version, through pgherd: REGRESS="join portals" for some of the files
REGRESS ?=
regress:
	@deploy/prepare.sh regress
	cargo build --locked -p pgherd
	cargo run --quiet --locked -p pgherd-tests --example regress_endpoints -- python3 -u tests/regress/run.py $(REGRESS)

# what pgherd costs beside PgBouncer, in one run: a table, and target/bench/pgbench.{json,svg}
BENCH ?=
bench: build
	benches/pgbench/pgbouncer.sh
	python3 -u benches/pgbench/run.py $(BENCH)

# the same in instructions of user space, which a busy machine does not change; valgrind counts them
bench-instructions: build
	benches/pgbench/pgbouncer.sh
	python3 -u benches/pgbench/instructions.py
