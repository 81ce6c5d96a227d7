# `make` lists the targets. Everything happens in .venv; PYTHON chooses the interpreter that it is made with.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: demo
demo: .venv/.run ## kill one starved process with kill(2) and one through the agent, side by side (ARGS="--json", ARGS="--png FILE")
	@$(BIN)/mrelease demo $(ARGS)

.PHONY: test
test: .venv/.dev ## every test that this machine can run (ARGS="-k name" chooses)
	$(BIN)/pytest $(ARGS)

.PHONY: test-vm
test-vm: .venv/.dev ## the kernel tests on Linux 5.10, 6.1, 6.12 and 7.3 under QEMU, cgroup v2 (ARGS="6.1 -- -k live")
	@PYTHONPATH=tests $(BIN)/python -m vm $(KERNELS) $(ARGS)

.PHONY: e2e
e2e: .venv/.dev ## the tests on a real Kubernetes cluster of this machine, or any other by E2E_KUBECONFIG (ARGS="-k name" chooses)
	@[ -n "$$E2E_KUBECONFIG" ] || { tests/e2e/build_image && tests/e2e/cluster/up; } >/dev/null
	$(BIN)/pytest -m e2e --timeout 600 $(ARGS)

.PHONY: e2e-up
e2e-up: .venv/.dev ## start the cluster with the agent's image, print its KUBECONFIG (E2E_NODES=2)
	@tests/e2e/build_image >/dev/null
	@tests/e2e/cluster/up

.PHONY: e2e-down
e2e-down: ## end the cluster and remove all of it but the cache
	@tests/e2e/cluster/down

.PHONY: test-plugins
test-plugins: .venv/.dev .venv/.plugins ## the tests with real Slurm, Dask, Celery and Ray, as root (ARGS="tests/plugins/slurm" chooses)
	$(BIN)/pytest -m plugins --timeout 600 $(ARGS)

.PHONY: test-languages
test-languages: .venv/.dev examples/javascript/node_modules/.package-lock.json ## the examples in Go and JavaScript against a real agent (ARGS="-k go")
	cd examples/go && go mod download
	$(BIN)/pytest -m languages tests/languages $(ARGS)

examples/javascript/node_modules/.package-lock.json: examples/javascript/package-lock.json
	npm ci --silent --prefix examples/javascript

.PHONY: test-packages
test-packages: .venv/.dev ## the packages, in a Debian of their own made by mmdebstrap, as root (ARGS="-k deb")
	$(BIN)/pytest -m packages tests/packaging $(ARGS)

.PHONY: deb
deb: .venv/.dev ## build the Debian package into dist; needs debhelper and dpkg-dev (ARGS="--version 0.1.0-2")
	@$(BIN)/python scripts/deb.py $(ARGS)

.PHONY: bench-plugins
bench-plugins: .venv/.dev .venv/.plugins ## measure the orchestrators alone and with us, as root, write docs/plugins (ARGS="--only ray")
	PYTHONPATH=tests $(BIN)/python -m plugins.bench $(ARGS)

.PHONY: bench
bench: .venv/.dev ## measure against kill(2), C, ctr and earlyoom, write docs/performance.md (ARGS="--only idle,rpc", ARGS=--help)
	PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

.PHONY: soak
soak: .venv/.dev ## an observer apart from the agent compares each answer with what it saw, as root (ARGS="--kills 10000", "--for 1h" writes docs/soak.md)
	@PYTHONPATH=tests $(BIN)/python -m soak $(ARGS)

.PHONY: fuzz
fuzz: .venv/.fuzz ## look for inputs that break the agent or the SDK, 60 s for each of its readers (ARGS="--seconds 600 --only policy")
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

.PHONY: picture
picture: .venv/.dev ## take the pictures of `mrelease top` and of the dashboard, as root
	PYTHONPATH=tests $(BIN)/python -m support.top_picture docs/img/top.svg
	PYTHONPATH=tests $(BIN)/python -m support.dashboard_picture docs/img/dashboard.svg

.PHONY: site
site: .venv/.dev .venv/.docs ## build the documentation as a site, build/site, and open every page of it in chromium (ARGS="-k search")
	$(BIN)/python scripts/website.py
	$(BIN)/pytest -m site $(ARGS)

.PHONY: lint
lint: .venv/.dev .venv/.plugins ## ruff, mypy, pyright, buf: and the contract keeps what the last release promised
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code
	cd proto && for last in released/*.binpb; do ../$(BIN)/buf breaking --against "$$last" || exit; done

.PHONY: format
format: .venv/.dev ## let ruff and buf lay out the source
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cd proto && ../$(BIN)/buf format --write

.PHONY: generate
generate: .venv/.dev ## regenerate client/mrelease/v1 from proto/, and the reference pages from the source
	scripts/generate
	$(BIN)/python scripts/reference.py
	$(BIN)/python scripts/least_privilege.py
	$(BIN)/python scripts/dashboard.py

.PHONY: sbom
sbom: .venv/.run ## write what is installed as a bill of materials: dist/sbom.json, CycloneDX
	@mkdir -p dist
	$(BIN)/python scripts/sbom.py --out dist/sbom.json

.PHONY: audit-deps
audit-deps: .venv/.run ## ask for known vulnerabilities of what is installed; needs the network
	@scripts/audit-deps

.PHONY: clean
clean: ## remove what make made
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist

.venv/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON) here; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "mrelease needs Python 3.10 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv here; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "$(PYTHON) -m venv does not work here; why is said above" >&2; rm -rf .venv; exit 1; }

.venv/.run: .venv/bin/pip pyproject.toml constraints.txt
	@echo "installing mrelease into .venv ..." >&2
	@$(INSTALL) --editable '.[agent,cli,certs,kubernetes]'
	@touch $@

.venv/.dev: .venv/bin/pip pyproject.toml constraints.txt
	@echo "installing mrelease and its development tools into .venv ..." >&2
	@$(INSTALL) --editable '.[agent,cli,certs,kubernetes,controller,otel,plot,dev]'
	@touch $@ .venv/.run

.venv/.plugins: .venv/.dev
	@$(INSTALL) --editable '.[plugins]'
	@touch $@

.venv/.docs: .venv/.dev
	@$(INSTALL) --editable '.[docs]'
	@touch $@

.venv/.fuzz: .venv/.dev
	@$(INSTALL) --editable '.[fuzz]'
	@touch $@
