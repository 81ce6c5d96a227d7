# The agent's image, docs/image.md. `docker build .` needs nothing but this directory and a package index.
#
# Two builds from the same commit, base and SOURCE_DATE_EPOCH have the same layer: scripts/image_root.py says how.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
# Extras of the wheel. `cli` is there so that `kubectl exec` into the agent's pod has `mrelease`; the controller has the same image.
ARG EXTRAS=agent,cli,controller,otel
ARG SOURCE_DATE_EPOCH=1580601600
WORKDIR /src
COPY . .
# Wheels that lie in wheels/ are taken instead of an index: a build without network, as tests/e2e/build_image makes it.
# PIP_CONSTRAINT counts for what builds the wheel, too. No byte code by pip: it would have the time of this build in it.
RUN set -e; export PIP_CONSTRAINT=/src/constraints.txt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore; \
    if [ -d wheels ]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=/src/wheels; fi; \
    python3 -m pip wheel --no-deps --wheel-dir /dist .; \
    python3 -m venv --without-pip /opt/mrelease; \
    python3 -m pip --python /opt/mrelease/bin/python install --no-compile "$(echo /dist/mrelease-*.whl)[${EXTRAS}]"; \
    python3 scripts/image_root.py --venv /opt/mrelease --sbom scripts/sbom.py --out /image

# Nothing of the base but what Python loads: no shell, no package manager, no compiler, no pip.
FROM scratch
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mrelease" \
      org.opencontainers.image.description="Node agent that kills on request, makes the memory come back now, and proves it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=build /image /
# C.UTF-8: names of processes may be anything. The hash seed is Python's own: random.
ENV PATH=/opt/mrelease/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
ENTRYPOINT ["mrelease-agent"]
