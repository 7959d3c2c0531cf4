# The commands people type. `make demo` needs Rust, Python 3 with pip, and nothing else; `make test` and `make stack` also PostgreSQL and Redis,
# `make test` Prometheus as well; `make lint` and `make test` need OpenSSL's headers and pkg-config. `make servers` installs all of it on Debian.

ONNXRUNTIME_VERSION := 1.31.1
ONNXRUNTIME := $(CURDIR)/.onnxruntime/libonnxruntime.so.$(ONNXRUNTIME_VERSION)
PYTHON ?= python3
VENV := .venv/ready
ROUNDS ?= 200
SEED ?= 1
TRAINING := target/training
FUZZ_SECONDS ?= 10
INTERDICT := cargo run --release --quiet --bin interdict --

# An operator's own library wins over the pinned one.
export INTERDICT_ONNXRUNTIME ?= $(ONNXRUNTIME)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint onnxruntime servers fluvio stack compose bench bench-block bench-redis train clean-training fuzz chaos

help: ## Lists these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

demo: onnxruntime ## Runs simulated payments through features, model, decision and block, on 127.0.0.1:8080
	cargo run --release --no-default-features --bin interdict -- demo $(ARGS)

test: onnxruntime servers ## Runs every test, real PostgreSQL, Redis and Prometheus included
	cargo test --workspace

lint: servers ## Checks formatting and lints, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --all-targets --features fluvio-server -- -D warnings

fuzz: ## Runs every fuzz target for FUZZ_SECONDS (10), from the corpus in git
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
	mkdir -p target/fuzz-found
	set -e; for target in $$(ls fuzz/corpus); do \
		mkdir -p target/fuzz-found/$$target; \
		RUSTC_BOOTSTRAP=1 cargo fuzz run -s none $$target target/fuzz-found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=65536 -rss_limit_mb=2048; \
	done

onnxruntime: $(INTERDICT_ONNXRUNTIME) ## Fetches the pinned ONNX Runtime library into .onnxruntime

$(ONNXRUNTIME): training/onnxruntime.txt
	$(PYTHON) training/fetch_onnxruntime.py --requirements training/onnxruntime.txt --library $@

servers: ## Installs PostgreSQL, Redis, Prometheus and OpenSSL's headers (for Kafka) from Debian's packages where they are missing
	@if ! command -v redis-server >/dev/null || ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null || ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || ! pkg-config --exists libssl 2>/dev/null; then \
		if [ "$$(id -u)" != 0 ]; then echo "PostgreSQL, Redis, Prometheus or libssl-dev is missing: sudo make servers"; exit 1; fi; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql redis-server prometheus libssl-dev pkg-config; \
	fi

chaos: onnxruntime servers ## Kills, pauses and cuts off roles in seeded rounds; ROUNDS=200 SEED=1
	INTERDICT_CHAOS_ROUNDS=$(ROUNDS) INTERDICT_CHAOS_SEED=$(SEED) cargo test --workspace --test it fleet::chaos

fluvio: onnxruntime servers ## Tests a real Fluvio: fluvio-run on the PATH, or INTERDICT_FLUVIO=HOST:PORT
	$(PYTHON) tests/fluvio.py -- sh -c 'cargo test --workspace --features fluvio-server --test topics fluvio && cargo test --workspace --features fluvio-server --test it fluvio'

stack: onnxruntime servers ## Blocks accounts in a private PostgreSQL, live; ARGS="--seconds 60 --rate 200"
	cargo build --release --bin interdict
	$(PYTHON) examples/postgres/stack.py $(ARGS)

compose: ## Runs the whole stack in containers, Grafana on 127.0.0.1:3000; needs Docker with its compose plugin
	examples/compose/secrets.sh
	docker compose up --build $(ARGS)

bench-block: onnxruntime servers ## Measures commit to block in a private PostgreSQL; ARGS="--json"
	cargo build --release --bin interdict
	$(PYTHON) examples/postgres/servers.py -- target/release/interdict bench block $(ARGS)

bench-redis: onnxruntime servers ## Measures decisions and intake over a private Redis; ARGS="--json"
	cargo build --release --bin interdict
	set -e; for bench in serve ingest-redis "ingest-redis --keys 1000000 --append-only"; do \
		$(PYTHON) examples/postgres/servers.py -- target/release/interdict bench $$bench $(ARGS); \
	done

bench: onnxruntime ## Measures the budgets; ARGS="--json" for programs
	cargo build --release --bin interdict
	for bench in engine backfill decide score drift; do $(INTERDICT) bench $$bench $(ARGS) || exit 1; done

train: onnxruntime $(VENV) ## Simulates, computes features, trains, and writes examples/handbook/bundle
	mkdir -p $(TRAINING)
	$(INTERDICT) simulate --seed 20 --days 95 --output $(TRAINING)/history.parquet
	$(INTERDICT) backfill --force --config examples/handbook/interdict.toml \
		--input $(TRAINING)/history.parquet --output $(TRAINING)/features.parquet
	.venv/bin/python training/train.py --features $(TRAINING)/features.parquet \
		--history $(TRAINING)/history.parquet --bundle examples/handbook/bundle

$(VENV): training/requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

clean-training: ## Removes what training made, the bundle excepted
	rm -rf $(TRAINING) .venv
