# Training, on a GPU or without one. PyTorch's wheels bring their own CUDA, so that the base needs none; the host brings the driver.
#   docker build -t clf:train .
#   mkdir -p runs && docker run --rm --gpus all --ipc host --user "$(id -u):$(id -g)" -e HOME=/tmp \
#       -v "$PWD/runs:/app/runs" -v "$PWD/data:/app/data:ro" clf:train fit --config resnet18.yaml --data.root data
# Driver older than 580: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 (docs/docker.md).
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS wheel
# A base without Python (nvidia/cuda) gets that of its distribution.
# hadolint ignore=DL3008
RUN python3 -c 'import ensurepip, venv' 2>/dev/null \
    || (apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*) \
    && python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "clf needs Python 3.11 or newer in the base image")'
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv /opt/build
COPY requirements-build.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/build/bin/pip install --require-hashes --requirement requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY clf clf
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .

# What the image is: dependencies first, in this stage, so that `--cache-from` an earlier image finds their layer.
FROM ${BASE_IMAGE}
# hadolint ignore=DL3008
RUN python3 -c 'import ensurepip, venv' 2>/dev/null \
    || (apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*) \
    && python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "clf needs Python 3.11 or newer in the base image")'
RUN groupadd --gid 10001 clf && useradd --uid 10001 --gid clf --create-home --shell /usr/sbin/nologin clf \
    && install -d -m 1777 /app && install -d -o clf -g clf /app/runs && python3 -m venv /opt/clf
# Another index for torch and torchvision, e.g. one of CUDA 12; their versions stay those of the lock. Empty: PyPI's.
ARG TORCH_INDEX=
ENV PATH=/opt/clf/bin:${PATH} \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
COPY requirements.lock /opt/clf/
# What torch brings along has other names and hashes on other indices: it is left out of the lock and resolved there.
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ -z "${TORCH_INDEX}" ]; then \
      pip install --require-hashes --requirement /opt/clf/requirements.lock; \
    else \
      awk '/^[a-z0-9]/ { kept = $0 !~ /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)(\[[a-z,]+\])?==/ } kept' \
        /opt/clf/requirements.lock > /opt/clf/rest.lock \
      && pip install --no-deps --require-hashes --requirement /opt/clf/rest.lock \
      && sed -nE 's/^(torch|torchvision)==([0-9.]+).*/\1==\2/p' /opt/clf/requirements.lock > /opt/clf/torch.txt \
      && pip install --index-url "${TORCH_INDEX}" --requirement /opt/clf/torch.txt; \
    fi
# Our own code late: a change of it costs seconds.
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir --no-deps /wheel/*.whl && pip check && clf configs >/dev/null

# Weights from the hub and compiled kernels go into the home folder; what is in /app/runs stays.
USER 10001:10001
VOLUME ["/app/runs"]
# Labels last: a new commit must not rebuild what stands above.
ARG SOURCE=unknown
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="clf" \
      org.opencontainers.image.description="Train, check, export and serve image classifiers from YAML" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The step is finished, last.ckpt written, and the exit code is 143.
STOPSIGNAL SIGTERM
ENTRYPOINT ["clf"]
CMD ["--help"]
