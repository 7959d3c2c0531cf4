# The commands people type. `make demo` needs Rust, Python 3 with pip, and nothing else; `make test` and `make stack` also PostgreSQL and Redis,
# which `make servers` installs on Debian.

ONNXRUNTIME_VERSION := 1.31.1
ONNXRUNTIME := $(CURDIR)/.onnxruntime/libonnxruntime.so.$(ONNXRUNTIME_VERSION)
PYTHON ?= python3
VENV := .venv/ready
TRAINING := target/training
INTERDICT := cargo run --release --quiet --bin interdict --

# An operator's own library wins over the pinned one.
export INTERDICT_ONNXRUNTIME ?= $(ONNXRUNTIME)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint onnxruntime servers fluvio stack bench bench-block train clean-training

help: ## Lists these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

demo: onnxruntime ## Runs simulated payments through features, model, decision and block, on 127.0.0.1:8080
	cargo run --release --no-default-features --bin interdict -- demo $(ARGS)

test: onnxruntime servers ## Runs every test, real PostgreSQL and Redis included
	cargo test --workspace

lint: ## Checks formatting and lints, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

onnxruntime: $(INTERDICT_ONNXRUNTIME) ## Fetches the pinned ONNX Runtime library into .onnxruntime

$(ONNXRUNTIME): training/onnxruntime.txt
	$(PYTHON) training/fetch_onnxruntime.py --requirements training/onnxruntime.txt --library $@

servers: ## Installs PostgreSQL, Redis and OpenSSL's headers (for Kafka) from Debian's packages where they are missing
	@if ! command -v redis-server >/dev/null || ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || ! pkg-config --exists libssl 2>/dev/null; then \
		if [ "$$(id -u)" != 0 ]; then echo "PostgreSQL, Redis or libssl-dev is missing: sudo make servers"; exit 1; fi; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql redis-server libssl-dev pkg-config; \
	fi

fluvio: onnxruntime servers ## Tests a real Fluvio: its programs on the PATH, or INTERDICT_FLUVIO=HOST:PORT
	$(PYTHON) tests/fluvio.py -- sh -c 'cargo test -p interdict -p interdict-ingest --test topics fluvio && cargo test -p interdict -p interdict-ingest --test it fluvio'

stack: onnxruntime servers ## Blocks accounts in a private PostgreSQL, live; ARGS="--seconds 60 --rate 200"
	cargo build --release --bin interdict
	$(PYTHON) examples/postgres/stack.py $(ARGS)

bench-block: onnxruntime servers ## Measures commit to block in a private PostgreSQL; ARGS="--json"
	cargo build --release --bin interdict
	$(PYTHON) examples/postgres/servers.py -- target/release/interdict bench block $(ARGS)

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
