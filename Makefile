# The commands people type. `make demo` and `make test` need Rust, Python 3 with pip, and nothing else.

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
.PHONY: help demo test lint onnxruntime bench train clean-training

help: ## Lists these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

demo: onnxruntime ## Runs simulated payments through features, model, decision and block, on 127.0.0.1:8080
	cargo run --release --no-default-features --bin interdict -- demo $(ARGS)

test: onnxruntime ## Runs every test
	cargo test --workspace

lint: ## Checks formatting and lints, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

onnxruntime: $(INTERDICT_ONNXRUNTIME) ## Fetches the pinned ONNX Runtime library into .onnxruntime

$(ONNXRUNTIME): training/onnxruntime.txt
	$(PYTHON) training/fetch_onnxruntime.py --requirements training/onnxruntime.txt --library $@

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
