# One image for the service and its workers.
# Not built where this file was written (no container engine there); tests/backend/test_compose.py runs its commands instead.
ARG PYTHON_VERSION=3.11
FROM python:${PYTHON_VERSION}-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update && apt-get install -y --no-install-recommends build-essential curl && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1001 usam && install -d -o usam /data /app
WORKDIR /app

# torch first and alone: its layer is large and seldom changes. TORCH_ARGS lets a site choose a smaller CPU build
# from the index it trusts, for example --build-arg TORCH_ARGS="--index-url ..."; that build is not checked by its hash.
ARG TORCH_ARGS=""
COPY requirements/torch.txt requirements/service.txt requirements/
RUN if [ -n "${TORCH_ARGS}" ]; \
    then pip install "setuptools<82" wheel hatchling && pip install ${TORCH_ARGS} torch torchvision; \
    else pip install --require-hashes --no-deps -r requirements/torch.txt; fi
# sam2 is published as source only: build it against the torch above, without CUDA kernels.
RUN SAM2_BUILD_CUDA=0 pip install --require-hashes --no-deps --no-build-isolation -r requirements/service.txt

COPY pyproject.toml README.md LICENSE ./
COPY models ./models
COPY usam ./usam
COPY backend ./backend
RUN pip install --no-deps --no-build-isolation .

USER usam
ENV USAM_DATA_DIR=/data USAM_HOME=/data/cache
VOLUME /data
EXPOSE 9090
HEALTHCHECK --interval=15s --timeout=3s --start-period=60s CMD curl -fsS http://127.0.0.1:9090/health || exit 1
CMD ["usam-backend", "serve", "--host", "0.0.0.0", "--port", "9090"]
