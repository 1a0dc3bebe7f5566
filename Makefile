# Every target sets up what it needs in .venv; a second call reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TOOLS := .tools
# Nothing is installed but files whose SHA-256 stands in a lock (docs/supply.md); `make lock` writes the locks.
INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes

.PHONY: help setup demo test test-more test-all test-slow check bench bench-peers faults fuzz hostile mutants docs docs-outputs docs-pictures docs-studies gpu fleet experiments degradation preactivation stochastic-depth lesions paths shrinking fine-tuning-table shrink-table timm-table schemas manifests wheel lock audit images clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP)  ## install resx with all it needs for CPU work and tests into .venv

# What comes as source is built with the setuptools of the lock: an isolated build would fetch one without a hash.
$(STAMP): pyproject.toml supply/setup.txt supply/build.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) --requirement supply/build.txt
	$(BIN)/python $(INSTALL) --no-build-isolation --requirement supply/setup.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(TOOLS)/.installed: supply/tools.txt
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python $(INSTALL) --only-binary :all: --requirement $<
	touch $@

demo: $(STAMP)  ## train, fold, export, serve, query and measure on real digits
	$(BIN)/resx demo

# More processes than cores: while a test waits for a server to start or to end, another one computes.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 4 --dist worksteal --durations=25

test: $(STAMP) $(TOOLS)/.installed  ## run the tests that a change wants first, one of each real thing among them
	$(PYTEST) -m "not slow and not integration"

test-more: $(STAMP) $(TOOLS)/.installed  ## run what `make test` leaves out: faults, fleets, measurements, every format
	$(PYTEST) -m "integration and not slow"

test-all: test test-more  ## run both

test-slow: $(STAMP)  ## run the slow tests
	$(BIN)/python -m pytest -m slow

check: $(STAMP)  ## lint, types, direction of the imports, the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docsite

docs: $(STAMP)  ## build the documentation into build/site, without warnings, every link checked; open build/site/index.html
	$(BIN)/python -m docsite

docs-outputs: $(STAMP)  ## run the commands of the tutorial and the README, and write what they print; about 5 minutes
	$(BIN)/python -m docsite.console_pages docs/tutorial.md README.md
	$(BIN)/python -m docsite.session

docs-pictures: $(STAMP)  ## draw the documentation's pictures: the line, the house, block diagrams, the chart of docs/benchmarks.md
	$(BIN)/python -m docsite.pictures
	$(BIN)/python -m docsite.block_diagrams
	$(BIN)/python -m docsite.house

docs-studies: $(STAMP)  ## run the documentation's studies on the digits, and draw what they find; about 10 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m docsite.studies

bench: $(STAMP)  ## measure: every figure of speed that the documentation quotes
	$(BIN)/python benchmarks/serving_efficiency.py
	$(BIN)/python benchmarks/serving_efficiency.py --native --instances 2 --threads 1 --max-batch 4 --bar 0.95
	$(BIN)/python benchmarks/serving_efficiency.py --native --model resnet20 --instances 2 --threads 1 --max-batch 4 --bar 0.75
	$(BIN)/python benchmarks/serving_efficiency.py --runtime openvino --precision bf16 --bar 0.92
	$(BIN)/python benchmarks/serving_efficiency.py --runtime openvino --precision bf16 --concurrency 1 --max-batch 1 --bar 0.94
	$(BIN)/python benchmarks/serving_efficiency.py --runtime openvino --precision int8 --bar 0.85
	$(BIN)/python benchmarks/serving_efficiency.py --concurrency 1 --max-batch 1 --bar 0.94
	$(BIN)/python benchmarks/precision_speed.py
	$(BIN)/python benchmarks/engine_sizes.py
	$(BIN)/python benchmarks/stochastic_depth_epoch.py
	$(BIN)/python benchmarks/resnext_forms.py
	$(BIN)/python benchmarks/depth.py
	$(BIN)/python benchmarks/lesion_time.py
	$(BIN)/python benchmarks/predict_speed.py
	$(BIN)/python benchmarks/plan_check.py
	$(BIN)/python benchmarks/load_checks.py --native --model resnet50 --only added --rounds 5 --seconds 4
	$(BIN)/python benchmarks/load_checks.py --model resnet50 --instances 1 --threads 0 --max-batch 8 --only poisson --seconds 8
	$(BIN)/python benchmarks/spinning.py --native
	$(BIN)/python benchmarks/spinning.py
	$(BIN)/python benchmarks/load_checks.py --native --rounds 5 --seconds 4

PEERS := fastapi litserve ray_serve bentoml

# PEERS_OPTIONS='--networks resnet50 --rounds 5' measures that; '--quick' says in three minutes whether all of it runs.
bench-peers: $(STAMP) $(PEERS:%=.peers/%/.installed)  ## the same networks behind other servers, half an hour; writes build/peers.json and docs/benchmarks.md
	$(BIN)/python -m benchmarks.peers --page $(if $(findstring --quick,$(PEERS_OPTIONS)),build/peers.md,docs/benchmarks.md) $(PEERS_OPTIONS)

.peers/%/.installed: benchmarks/peers/%.txt
	test -x .peers/$*/bin/python || $(PYTHON) -m venv .peers/$*
	.peers/$*/bin/python $(INSTALL) --only-binary :all: --requirement $<
	touch $@

faults: $(STAMP)  ## break a served model under load in every way and count what clients notice; about 35 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.faults --times 20

fuzz: $(STAMP)  ## spoil everything that resx reads, at random, for 20 minutes; faults are kept in build/fuzz
	$(BIN)/python -m benchmarks.fuzz --minutes 20

hostile: $(STAMP)  ## 100,000 hostile requests over http and gRPC beside healthy ones: none of those may be lost; about 3 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.hostile
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.hostile --native

mutants: $(STAMP)  ## plant one-line faults, one at a time: the tests have to notice 95 % of them; under an hour
	$(BIN)/python -m benchmarks.mutants

gpu: $(STAMP)  ## prove the line on this machine's NVIDIA GPU in at most 8 minutes; writes build/gpu/gpu.html
	$(BIN)/python -m benchmarks.gpu

fleet: $(STAMP)  ## three servers behind HAProxy: one is killed, then all are upgraded, under load; about 2 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fleet

# EXPERIMENTS_OPTIONS=--full takes ten seeds. What docs/experiments/rows.json has is not run again.
EXPERIMENTS := degradation preactivation stochastic-depth lesions paths shrinking
RUN_EXPERIMENTS = OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.experiments --jobs 2 $(EXPERIMENTS_OPTIONS)

experiments: $(STAMP)  ## the papers' claims on small data, over seeds; writes docs/experiments.md; `make lesions`, `paths`, ... run one
	$(RUN_EXPERIMENTS)

$(EXPERIMENTS): $(STAMP)
	$(RUN_EXPERIMENTS) $@

fine-tuning-table: $(STAMP)  ## fine-tuning beside training from scratch on the digits, ten seeds, about 15 minutes; writes docs/how-to/fine-tuning.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fine_tuning_table.py --page docs/how-to/fine-tuning.md

shrink-table: $(STAMP)  ## resnet110 without 20 of its 54 blocks: accuracy and served latency; trains for half an hour
	$(BIN)/python benchmarks/shrink_table.py

timm-table: $(STAMP)  ## one network of each of timm's families: export, fp16, preprocessing, serving; writes docs/timm.md
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.timm_families -o docs/timm.md

schemas: $(STAMP)  ## write the published JSON schemas into docs/
	$(BIN)/resx info --schema > docs/card.schema.json
	$(BIN)/resx bench --schema > docs/bench.schema.json
	$(BIN)/resx profile --schema > docs/profile.schema.json
	$(BIN)/python -m resx.cli.json_schema > docs/json.schema.json

manifests: $(STAMP)  ## write deploy/kubernetes, deploy/kserve and deploy/helm
	$(BIN)/python -m resx.serving.clusters.kustomization deploy

wheel: $(STAMP) $(TOOLS)/.installed  ## build sdist, wheel and the wheel's SBOM (CycloneDX) into dist/
	$(BIN)/python -m build --no-isolation
	PYTHONPATH=src $(TOOLS)/bin/python -m supply.sbom dist --environment $(VENV)

# Versions stay as they are locked; UPGRADE=--upgrade takes the newest, UPGRADE='--upgrade-package NAME' one of them.
COMPILE = $(TOOLS)/bin/uv pip compile --quiet --python $(TOOLS)/bin/python --python-version 3.11 --universal \
	--generate-hashes --custom-compile-command 'make lock' $(UPGRADE)

lock: $(TOOLS)/.installed  ## write the versions and hashes of everything that is installed: supply/*.txt, benchmarks/peers/*.txt
	$(COMPILE) --extra cpu --extra docs --extra openvino --extra rtx --extra test pyproject.toml --output-file supply/setup.txt
	echo setuptools | $(COMPILE) --constraint supply/setup.txt - --output-file supply/build.txt
	$(COMPILE) supply/tools.in --output-file supply/tools.txt
	for peer in $(basename $(notdir $(wildcard benchmarks/peers/*.in))); do \
		$(COMPILE) benchmarks/peers/$$peer.in --output-file benchmarks/peers/$$peer.txt || exit; done

audit: $(TOOLS)/.installed  ## list known vulnerabilities of what is locked; AUDIT_DB=PATH: from a copy of OSV's database
	PYTHONPATH=src $(TOOLS)/bin/python -m supply.audit $(if $(AUDIT_DB),--database '$(AUDIT_DB)')

images: $(STAMP)  ## ask the registries for the digests of supply/images.txt, and write them wherever an image is named
	$(BIN)/python -m supply.images; asked=$$?; $(BIN)/python -m resx.serving.clusters.kustomization deploy && exit $$asked

clean:  ## remove the environment and what tools leave behind
	rm -rf $(VENV) $(TOOLS) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
