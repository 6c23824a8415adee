# Everything a person or a CI job does with this repository. Needs Linux, make and Python 3.11 or
# later; all else is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DRAWS := $(VENV)/.installed-bench

.DEFAULT_GOAL := help
.PHONY: help demo deb screenshots test faults floods fuzz api-fuzz coverage bench lint format clean

help:
	@echo "make demo      run the guide's example on two real nodes and check it (under a minute)"
	@echo "make deb       a Debian package of this checkout, in dist/"
	@echo "make test      run all tests, two at a time on each core, which takes a quarter of an hour on two;"
	@echo "               JOBS=1 for one at a time"
	@echo "make faults    storms of kills, cuts and full disks over real nodes; one of them again:"
	@echo "               FLAVOUR=diamond SEED=7 UNITS=500; KINDS=\"fill disk,cut link\" for some faults"
	@echo "make floods    every flood of an enemy against real nodes, for a minute each, and a table;"
	@echo "               ONLY=adverts,names for some, SECONDS=8, WRITE=docs/guarantees.md"
	@echo "make fuzz      feed what is nearly right to every boundary of a node; TARGET=routing for one,"
	@echo "               INPUTS=50000, SEED=7; INDEX=123 feeds one input again"
	@echo "make api-fuzz  try the HTTP API against its OpenAPI document; EXAMPLES=200 of each kind"
	@echo "make coverage  run all tests and report which lines they did not reach"
	@echo "make bench     measure, report and draw; ONLY=start,idle for some scenarios, QUICK=1 for"
	@echo "               small sizes, REPEATS=9, PEER=/path/to/receptor to measure it beside ours,"
	@echo "               SVG=file for the picture; COMPARE=\"old.json new.json\" compares two runs"
	@echo "make screenshots  pictures of the page for docs/page.md, in docs/images/"
	@echo "make lint      ruff, mypy and the dependency rule"
	@echo "make format    let ruff rewrite the source"
	@echo "make clean     remove .venv and everything that tools left behind"

# Debian's python3 comes without ensurepip, and then no venv can be made; python3-venv brings it.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; name it: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || sh -c '\
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update -q && $$sudo apt-get install -q -y python3-venv'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/python examples/demo.py

deb: $(STAMP)
	@packaging/build-deb $(BIN)/python dist

# Tests of ip-router want the ip command, those of isolation libseccomp, those of work-ssh sshd and other tars, those of docs/install.md systemd and
# Debian's own Python with venv, those of completion zsh and fish, those of docs/containers.md podman, those of hostile jobs nc,
# those of the page a browser, those of the HTTP service curl.
# What cannot be had is said by the tests that are skipped for it.
WANTED := command -v curl && command -v ip && command -v nc && command -v ssh && test -x /usr/sbin/sshd && command -v systemd-analyze && ldconfig -p | grep -q libseccomp.so.2 \
	&& command -v zsh && command -v fish && command -v podman && command -v newuidmap \
	&& command -v runc && command -v catatonit && command -v busybox && command -v bsdtar \
	&& command -v chromium && command -v chromedriver && command -v certutil \
	&& /usr/bin/python3 -c 'import ensurepip, venv'
# Prometheus' own tool judges metrics and alerts. It is taken out of Debian's package without that
# being installed, which would start a server; without it prometheus-client's parsers are asked alone.
PROMTOOL := cd $(VENV) && apt-get download -q prometheus && dpkg-deb --fsys-tarfile prometheus_*.deb \
	| tar -x --strip-components=3 -C bin ./usr/bin/promtool && rm -f prometheus_*.deb
# Half of the time of a test is waiting for what it has started, so two of them share a core. A
# module's tests are in one process, in their order: modules that come last are short.
JOBS ?= $(shell echo $$((2 * $$(nproc))))
ON_ALL_CORES := --numprocesses $(JOBS) --dist loadscope --no-loadscope-reorder
test: $(STAMP)
	@{ $(WANTED); } >/dev/null 2>&1 || [ "$$(id -u)" != 0 ] \
		|| { apt-get update -q && apt-get install -q -y \
			curl iproute2 libseccomp2 netcat-openbsd openssh-client openssh-server systemd python3-venv \
			&& apt-get install -q -y --no-install-recommends zsh fish \
			podman uidmap runc catatonit busybox libarchive-tools chromium chromium-driver libnss3-tools; } \
			>/dev/null 2>&1 || true
	@command -v promtool >/dev/null 2>&1 || test -x $(BIN)/promtool || { $(PROMTOOL); } >/dev/null 2>&1 || true
	@echo "All tests: a quarter of an hour on two cores."
	@$(BIN)/python -m pytest $(ON_ALL_CORES)

# The short storms of "make test" are the same test with fewer units. One of 500 takes minutes.
# Flavours are line, diamond, receptor and ssh.
UNITS ?= 500
faults: $(STAMP)
	@FAULTS_SEEDS="$(or $(SEED),1 2 3)" FAULTS_UNITS=$(UNITS) \
		FAULTS_FLAVOURS="$(FLAVOUR)" FAULTS_KINDS="$(KINDS)" \
		$(BIN)/python -m pytest tests/faults -rP

# Not in make test, but for a short form of each flood: takes an hour, and the machine for itself.
TESTS_PATH := PYTHONPATH=tests:tests/integration:.
SECONDS ?= 60
floods: $(STAMP)
	@$(TESTS_PATH) $(BIN)/python -m floods --seconds $(SECONDS) \
		$(if $(ONLY),--only $(ONLY)) $(if $(WRITE),--write $(WRITE))

INPUTS ?= 50000
fuzz: $(STAMP)
	@$(TESTS_PATH) $(BIN)/python -m fuzz --inputs $(INPUTS) $(if $(TARGET),--target $(TARGET)) \
		$(if $(SEED),--seed $(SEED)) $(if $(INDEX),--index $(INDEX))

EXAMPLES ?= 200
api-fuzz: $(STAMP)
	@API_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/integration/test_http_schema.py

coverage: $(STAMP)
	@$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered

# Not in make test: figures depend on the machine, and no test measures time.
bench: $(DRAWS)
	@$(BIN)/python -m bench $(if $(COMPARE),compare $(COMPARE),\
		$(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick) $(if $(REPEATS),--repeats $(REPEATS)) \
		$(if $(PEER),--peer $(PEER)) $(if $(SVG),--svg $(SVG)))

$(DRAWS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

# They need chromium, which "make test" installs.
screenshots: $(STAMP)
	@$(BIN)/python tests/browser/screenshots.py docs/images

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
