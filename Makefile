# The only list of commands: CI, the README and people call these.

PYTHON ?= python3
DOCKER ?= docker
IMAGE ?= rerankd:dev
# Passed on by the targets that run one program: make test-python ARGS="-k stream"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# tei.v1 is another project's package: its stubs are ours alone, and so lie within our own.
PROTOS := -Irerankd/tei=proto/tei -Iproto proto/rerankd/v1/rerank.proto proto/tei/v1/tei.proto
PROTO_BIN := $(VENV)/proto-tools/bin
# One profile, release, for the extension, the tests and the linter: see Cargo.toml.
CARGO_FLAGS := --release --locked
CORE_SOURCES := $(shell find rust -name '*.rs' 2>/dev/null) build.rs Cargo.toml Cargo.lock rust-toolchain.toml pyproject.toml

# nvcc, as NVIDIA's wheels have it; any other is taken by NVCC or CUDA_PATH. What runs needs no more than a driver and cuBLAS.
CUDA_ENV := .cuda/env
CUDA_WHEELS := nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- Setting up -------------------------------------------------------------------------------------------------

.PHONY: setup
setup: need-cargo $(VENV)/.core ## Make .venv: the package, built in release, and the rerankd command

define CHECK_PYTHON
import sys
try:
    import ensurepip, venv
except ImportError:
    sys.exit("Python %d.%d at %s has no venv module; install it (Debian: python3-venv)." % (sys.version_info[:2] + (sys.executable,)))
endef
export CHECK_PYTHON

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON); install Python 3.10 or later, or say which: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); rerankd needs Python 3.10 or later: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK_PYTHON"
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.deps: requirements/dev.lock | $(VENV)/.made
	$(PIP) -r requirements/dev.lock
	@touch $@

$(VENV)/.core: $(CORE_SOURCES) $(VENV)/.deps | need-cargo
	env -u CONDA_PREFIX VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/maturin develop $(CARGO_FLAGS)
	@touch $@

$(PROTO_BIN)/.made: requirements/proto.lock | $(VENV)/.made
	$(BIN)/python -m venv $(VENV)/proto-tools
	$(PROTO_BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/proto.lock
	@touch $@

.PHONY: need-cargo
need-cargo:
	@command -v cargo >/dev/null || { echo "There is no cargo; install Rust, stable, with rustup." >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null || { echo "There is no C compiler ($${CC:-cc}); install gcc or clang (Debian: build-essential)." >&2; exit 1; }

# --- Running ----------------------------------------------------------------------------------------------------

.PHONY: demo
demo: setup ## Start a server on the embedded model, ask it, print the ranking, stop it
	$(BIN)/python examples/demo.py $(ARGS)

# --- Testing ----------------------------------------------------------------------------------------------------

.PHONY: test test-rust test-python
test: setup test-rust test-python ## All tests, Rust and Python

test-rust: need-cargo ## The Rust tests; they need no Python
	cargo test $(CARGO_FLAGS) $(ARGS)

test-python: setup ## The Python tests
	$(BIN)/python -m pytest $(ARGS)

# --- GPUs -------------------------------------------------------------------------------------------------------

$(CUDA_ENV)/.made: | $(VENV)/.made
	$(BIN)/python -m venv $(CUDA_ENV)
	$(CUDA_ENV)/bin/python -m pip install --quiet --disable-pip-version-check $(CUDA_WHEELS)
	@touch $@

.PHONY: cuda-env cuda cuda-wheel cuda-tests test-cuda-kernels lint-cuda gpu-check
cuda-env: $(CUDA_ENV)/.made ## Install nvcc, 300 MB, in .cuda

cuda: need-cargo $(VENV)/.deps ## The package in .venv, built for GPUs too; needs nvcc: make cuda-env
	env -u CONDA_PREFIX VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/maturin develop $(CARGO_FLAGS) --features python,cuda
	@touch $(VENV)/.core

cuda-wheel: need-cargo $(VENV)/.deps ## A wheel for GPUs too, in target/cuda-wheels; needs nvcc: make cuda-env
	$(BIN)/maturin build $(CARGO_FLAGS) --features python,cuda --out target/cuda-wheels

cuda-tests: need-cargo ## A binary of the kernels' tests, to be run where there is a GPU; needs nvcc: make cuda-env
	cargo test $(CARGO_FLAGS) --features cuda,cuda-twin --lib --no-run $(ARGS)

test-cuda-kernels: need-cargo ## The GPU's code on its twin, which needs a C++ compiler alone
	@command -v $${CXX:-c++} >/dev/null || { echo "There is no C++ compiler ($${CXX:-c++}); install g++ or clang++." >&2; exit 1; }
	cargo test $(CARGO_FLAGS) --features cuda-twin --lib $(ARGS) gpu
	cargo test $(CARGO_FLAGS) --features cuda-twin --test gpu $(ARGS)

lint-cuda: need-cargo ## clippy of the GPU's code; needs nvcc: make cuda-env
	cargo clippy $(CARGO_FLAGS) --all-targets --features cuda,cuda-twin -- -D warnings

gpu-check: ## On a machine with a GPU: parity, kernels, speed beside PyTorch, gRPC, in one table
	$(BIN)/python -m benches.gpu_check $(ARGS)

# --- Other people's clients -------------------------------------------------------------------------------------

# Two environments, for some clients ask for older packages than others do: requirements/clients/*.in.
CLIENTS := .clients/current/.made .clients/older/.made tests/clients/js/node_modules/.made
UV := .clients/uv/bin/uv

.clients/uv/.made: | $(VENV)/.made
	$(BIN)/python -m venv .clients/uv
	.clients/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@touch $@

.clients/%/.made: requirements/clients/%.lock .clients/uv/.made
	$(UV) venv --quiet --clear --python $(BIN)/python .clients/$*
	$(UV) pip sync --quiet --python .clients/$* $<
	@touch $@

tests/clients/js/node_modules/.made: tests/clients/js/package-lock.json
	@command -v npm >/dev/null || { echo "There is no npm; install Node, 20 or later (Debian: nodejs npm)." >&2; exit 1; }
	npm ci --prefix tests/clients/js --no-audit --no-fund --ignore-scripts --loglevel error
	@touch $@

.PHONY: clients-env test-clients clients-lock screenshot
clients-env: $(CLIENTS) ## Install other people's clients, 1.5 GB, in .clients and tests/clients/js

test-clients: setup clients-env ## Those clients, a browser and schemathesis against a live server
	.clients/current/bin/python -m pytest -c tests/clients/pytest.ini tests/clients --ignore tests/clients/older $(ARGS)
	.clients/older/bin/python -m pytest -c tests/clients/pytest.ini tests/clients/older $(ARGS)

clients-lock: .clients/uv/.made ## Resolve requirements/clients/*.lock and the npm lock anew
	for each in current older; do $(UV) pip compile --quiet --upgrade --universal --python-version 3.10 --no-annotate \
		--custom-compile-command "make clients-lock" requirements/clients/$$each.in -o requirements/clients/$$each.lock || exit; done
	npm update --prefix tests/clients/js --package-lock-only --no-audit --no-fund

screenshot: setup .clients/current/.made ## Take docs/playground.png anew
	cd tests && ../.clients/current/bin/python -m clients.browser --server-python ../$(BIN)/python ../docs/playground.png

# --- Examples in other languages ---------------------------------------------------------------------------------

.PHONY: interop
interop: setup ## Build examples/ in every language whose tools are there; each against servers in every condition
	$(BIN)/python -m pytest -c tests/interop/pytest.ini tests/interop $(ARGS)

# --- Offline, on Ray --------------------------------------------------------------------------------------------

.ray/.made: examples/ray/requirements.txt requirements/dev.lock | $(VENV)/.core
	$(BIN)/python -m venv .ray
	.ray/bin/python -m pip install --quiet -c requirements/dev.lock pip pytest pytest-timeout -r examples/ray/requirements.txt
	env -u CONDA_PREFIX VIRTUAL_ENV="$(CURDIR)/.ray" $(BIN)/maturin develop $(CARGO_FLAGS)
	@touch $@

.PHONY: ray-env test-offline bench-offline
ray-env: setup .ray/.made ## Install Ray, 0.5 GB, in .ray

test-offline: ray-env ## examples/ray against a plain loop, on a Ray of its own
	.ray/bin/python -m pytest -c tests/offline/pytest.ini --rootdir . --confcutdir tests/offline tests/offline $(ARGS)

bench-offline: ray-env ## A large file reranked on Ray Data, and in a plain loop
	.ray/bin/python -m benches.offline $(ARGS)

# --- The chart --------------------------------------------------------------------------------------------------

# Programs of other projects, built from their Go modules at the versions of tests/deploy/go/*/go.mod.
CHART_TOOLS := $(addprefix .deploy/bin/,helm helm-docs helm-unittest kubeconform kube-score)
CLUSTER_TOOLS := $(addprefix .deploy/bin/,etcd kube-apiserver kube-controller-manager kube-scheduler kubectl kwok)
GO_BUILD = cd tests/deploy/go/$(1) && go build -ldflags="-s -w" -o "$(CURDIR)/$@" $(2)

.PHONY: need-go chart-tools cluster-tools chart chart-kinds test-chart test-cluster
need-go:
	@command -v go >/dev/null || { echo "There is no go; install Go 1.26 or later." >&2; exit 1; }

.deploy/bin/helm: tests/deploy/go/helm/go.sum | need-go
	$(call GO_BUILD,helm,helm.sh/helm/v4/cmd/helm)
.deploy/bin/helm-docs: tests/deploy/go/helm/go.sum | need-go
	$(call GO_BUILD,helm,github.com/norwoodj/helm-docs/cmd/helm-docs)
.deploy/bin/helm-unittest: tests/deploy/go/helm/go.sum | need-go
	$(call GO_BUILD,helm,github.com/helm-unittest/helm-unittest/cmd/helm-unittest)
.deploy/bin/kubeconform: tests/deploy/go/helm/go.sum | need-go
	$(call GO_BUILD,helm,github.com/yannh/kubeconform/cmd/kubeconform)
.deploy/bin/kube-score: tests/deploy/go/score/go.sum | need-go
	$(call GO_BUILD,score,github.com/zegl/kube-score/cmd/kube-score)
.deploy/bin/etcd: tests/deploy/go/cluster/go.sum | need-go
	$(call GO_BUILD,cluster,go.etcd.io/etcd/server/v3)
.deploy/bin/kwok: tests/deploy/go/cluster/go.sum | need-go
	$(call GO_BUILD,cluster,sigs.k8s.io/kwok/cmd/kwok)
.deploy/bin/kubectl: tests/deploy/go/cluster/go.sum | need-go
	$(call GO_BUILD,cluster,k8s.io/kubernetes/cmd/kubectl)
.deploy/bin/kube-%: tests/deploy/go/cluster/go.sum | need-go
	$(call GO_BUILD,cluster,k8s.io/kubernetes/cmd/kube-$*)

chart-tools: $(CHART_TOOLS) ## Build helm and what judges charts, in .deploy

cluster-tools: .deploy/bin/helm $(CLUSTER_TOOLS) ## Build a Kubernetes control plane, in .deploy

test-chart: setup chart-tools ## The Helm chart: helm lint, helm-unittest, kubeconform, kube-score
	$(BIN)/python -m pytest -c tests/deploy/pytest.ini tests/deploy/chart $(ARGS)

test-cluster: setup cluster-tools ## The chart on a real kube-apiserver and etcd: every scenario taken, a rollout, an eviction, an HPA
	$(BIN)/python -m pytest -c tests/deploy/pytest.ini tests/deploy/cluster $(ARGS)

chart: setup chart-tools ## Write what is made from the chart: its README, deploy/kubernetes.yaml
	.deploy/bin/helm-docs --chart-search-root deploy/helm --log-level warning
	cd tests && ../$(BIN)/python -m deploy.make_manifest > ../deploy/kubernetes.yaml

chart-kinds: setup need-go ## Make tests/deploy/kinds and crds anew, from the Go modules that make_kinds.py names
	cd tests && ../$(BIN)/python -m deploy.make_kinds

# --- Checking ---------------------------------------------------------------------------------------------------

.PHONY: lint lint-python lint-rust lint-proto proto-check lock-check
lint: lint-python lint-rust lint-proto lock-check ## Every check that is not a test

lint-python: setup ## ruff, mypy, and the extension against its stub
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy python/rerankd tests benches examples requirements
	@# PyO3 makes an __all__ of all that the module has; a stub need not say it again.
	echo rerankd._core.__all__ | MYPYPATH=python $(BIN)/stubtest rerankd._core --mypy-config-file pyproject.toml \
		--allowlist /dev/stdin --ignore-unused-allowlist

lint-rust: $(VENV)/.made need-cargo ## rustfmt and clippy, with and without the Python boundary
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	PYO3_PYTHON="$(CURDIR)/$(BIN)/python" cargo clippy $(CARGO_FLAGS) --all-targets --features python -- -D warnings

lint-proto: $(VENV)/.deps proto-check ## The .proto's style, its compatibility, and the stubs made from it
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking --against proto/image.binpb

proto-check: $(PROTO_BIN)/.made ## Whether the committed stubs are what the .proto gives
	@made=$$(mktemp -d) && trap 'rm -r "$$made"' EXIT && \
	$(MAKE) --no-print-directory -s proto PROTO_OUT="$$made" && \
	diff -r -x __init__.py -x __pycache__ "$$made/rerankd/v1" python/rerankd/v1 && \
	diff -r -x __init__.py -x __pycache__ "$$made/rerankd/tei" python/rerankd/tei || \
	{ echo "The stubs are not what proto/ gives; run make proto." >&2; exit 1; }

lock-check: $(VENV)/.deps need-cargo ## Whether the lock files are current
	@cargo metadata --locked --format-version 1 >/dev/null
	$(BIN)/python requirements/lock.py --check
	$(BIN)/python -m pip check

# --- Changing ---------------------------------------------------------------------------------------------------

.PHONY: fmt proto proto-image docs lock
fmt: $(VENV)/.deps need-cargo ## Format everything
	cargo fmt
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format --write

PROTO_OUT := python
proto: $(PROTO_BIN)/.made ## Make the stubs in python/rerankd/v1 and python/rerankd/tei from the .proto files
	$(PROTO_BIN)/python -m grpc_tools.protoc --python_out=$(PROTO_OUT) --pyi_out=$(PROTO_OUT) --grpc_python_out=$(PROTO_OUT) $(PROTOS)
	PATH="$(CURDIR)/$(PROTO_BIN):$$PATH" $(PROTO_BIN)/python -m grpc_tools.protoc --mypy_grpc_out=quiet:$(PROTO_OUT) $(PROTOS)

proto-image: $(VENV)/.deps ## Accept the .proto as it is: what buf breaking compares with from now on
	$(BIN)/buf build --exclude-source-info -o proto/image.binpb

docs: setup ## Write docs/settings.md, and the settings that the Helm chart knows, from settings.py
	$(BIN)/python -m rerankd.settings > docs/settings.md
	cd tests && ../$(BIN)/python -m deploy.make_schema

PYTHONS := $(BIN)/python
lock: $(VENV)/.deps ## Resolve requirements/dev.lock anew: make lock PYTHONS="python3.10 python3.11 ..."
	$(BIN)/python requirements/lock.py $(PYTHONS)

# --- Measuring --------------------------------------------------------------------------------------------------

.PHONY: bench bench-server bench-observer bench-serving bench-http bench-peak bench-memory bench-kernels peers-env peers accuracy
.PHONY: soak fuzz chaos rolling bench-scaling
bench: setup ## The engine's throughput on synthetic checkpoints of real shapes
	$(BIN)/python -m benches.engine $(ARGS)

bench-server: setup ## A server's latencies and throughput
	$(BIN)/python -m benches.server $(ARGS)

bench-observer: setup ## What metrics and traces cost a call
	$(BIN)/python -m benches.observer $(ARGS)

bench-serving: setup ## A server under load: overload, budgets, fairness, overhead
	$(BIN)/python -m benches.serving $(ARGS)

bench-http: setup ## What HTTP adds to gRPC
	$(BIN)/python -m benches.http_overhead $(ARGS)

soak: setup ## 10,000 callers a minute who leave, for 10 minutes: what they leave behind
	$(BIN)/python -m benches.soak $(ARGS)

fuzz: setup ## A million mutated messages
	$(BIN)/python -m benches.fuzz $(ARGS)

chaos: setup ## Servers frozen, killed, starved, with new certificates, with readers that stall
	$(BIN)/python -m benches.chaos $(ARGS)

rolling: setup ## Two servers restarted in turn, 20 times, under load: no call may fail
	$(BIN)/python -m benches.rolling $(ARGS)

bench-scaling: setup ## Several servers: how calls spread, what one more adds, how soon it is asked
	$(BIN)/python -m benches.scaling $(ARGS)

bench-peak: setup ## Memory under the worst that is let in, beside what was predicted
	$(BIN)/python -m benches.peak $(ARGS)

bench-memory: setup ## Start and memory in process, in each precision, packed and not
	$(BIN)/python -m benches.memory $(ARGS)

bench-kernels: need-cargo ## The kernels alone
	cargo bench --locked --bench kernels $(ARGS)

peers-env: $(VENV)/.made ## Install other engines, a few GB, in .peers
	$(BIN)/python -m benches.environment

peers: setup peers-env ## The same work on other engines
	$(BIN)/python -m benches.peers $(ARGS)

accuracy: setup peers-env ## What int8 and bf16 cost in exactness, beside another engine
	$(BIN)/python -m benches.accuracy $(ARGS)

# --- Shipping ---------------------------------------------------------------------------------------------------

# The images' bases are build arguments: make image BASES="--build-arg RUNTIME=debian:trixie-slim"
BASES ?=

.PHONY: image image-cuda test-image bench-image clean
image: ## The container image, for CPUs
	$(DOCKER) build -f deploy/Dockerfile $(BASES) -t $(IMAGE) .

image-cuda: ## The container image for NVIDIA GPUs
	$(DOCKER) build -f deploy/Dockerfile.cuda $(BASES) -t $(IMAGE)-cuda .

test-image: setup cuda-env ## The images built, run and asked, with no registry: needs root, debootstrap, buildah, podman, runc, go
	$(BIN)/python -m pytest -c tests/image/pytest.ini --rootdir . tests/image $(ARGS)

bench-image: setup ## The image's size, of what, and how soon it serves; needs what test-image does
	$(BIN)/python -m benches.image $(ARGS)

clean: ## Remove what these commands made
	rm -rf $(VENV) .cuda .deploy .image .ray .peers .clients .interop tests/clients/js/node_modules target .mypy_cache .pytest_cache .ruff_cache .hypothesis benches/.checkpoints
	for each in examples/*/Makefile; do $(MAKE) --no-print-directory -s -C "$$(dirname "$$each")" clean; done
	find python tests benches examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	rm -f python/rerankd/_core*.so
