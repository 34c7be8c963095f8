# Two commands: `make demo` and `make test`. Both work in a fresh clone on a fresh Debian or Ubuntu, as root or as a user with sudo.

SHELL := /bin/sh
# other flags than make's own keep it from starting programs itself, by the PATH it was called with
.SHELLFLAGS := -euc
# where rustup puts cargo when deploy/prepare.sh has just installed it
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

# how long each fuzz target runs within `make test`, in seconds
FUZZ_SECONDS ?= 10
# options of the demo, as in: make demo DEMO="--shards 2 --port 7432"
DEMO ?=

.PHONY: help demo build test prepare format lint unit docs deny grammar fuzz fuzz-sql

help:
	@echo 'make demo   starts a herd of real Postgres servers behind pgherd, with a shop in it'
	@echo 'make test   every check and every test'
	@echo 'make build  target/release/pgherd'
	@echo 'make fuzz-sql N=20000   random statements, here and on one Postgres: SEED=.. SHARDS=1,3,4 REPLICAS=1'

demo: build
	target/release/pgherd demo $(DEMO)

build: prepare
	cargo build --release --locked -p pgherd

test: prepare
	@$(MAKE) --no-print-directory format lint unit docs deny grammar fuzz
	@echo 'make test: all passed'

prepare:
	@deploy/prepare.sh

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

deny:
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check; \
	else echo 'deny: skipped, cargo-deny is not installed'; fi

# the lexer and the planner against Postgres' own scanner and grammar, whose bindings are made with libclang
grammar:
	@if ! find /usr/lib -name 'libclang.so*' -o -name 'libclang-[0-9]*.so*' | grep -q .; \
	then echo 'grammar: skipped, libclang is not installed (apt-get install libclang1)'; \
	else BINDGEN_EXTRA_CLANG_ARGS="-I$$(cc -print-file-name=include)" \
		cargo test --locked --manifest-path grammar/Cargo.toml; fi

# a smoke run of each fuzz target; they need a nightly compiler and cargo-fuzz
fuzz:
	@if [ ! -f fuzz/Cargo.toml ]; then echo 'fuzz: skipped, there are no targets'; \
	elif ! cargo +nightly --version >/dev/null 2>&1; then echo 'fuzz: skipped, no nightly toolchain is installed'; \
	elif ! cargo +nightly fuzz --version >/dev/null 2>&1; then echo 'fuzz: skipped, cargo-fuzz is not installed'; \
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
