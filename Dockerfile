# Training, on a GPU or without one. PyTorch's wheels bring their own CUDA, so that the base needs none; the host brings the driver.
#   docker build -t clf:train .
#   docker run --rm --gpus all --ipc host -v "$PWD/runs:/work/runs" -v "$PWD/data:/work/data:ro" clf:train fit --config resnet18.yaml --data.root data
# Driver older than 580: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 (docs/docker.md).
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS wheel
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

FROM ${BASE_IMAGE} AS build
# Another index for torch and torchvision, e.g. one of CUDA 12; their versions stay those of the lock. Empty: PyPI's.
ARG TORCH_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv /opt/clf
COPY requirements.lock ./
# What torch brings along has other names and hashes on other indices: it is left out of the lock and resolved there.
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ -z "${TORCH_INDEX}" ]; then \
      /opt/clf/bin/pip install --require-hashes --requirement requirements.lock; \
    else \
      awk '/^[a-z0-9]/ { kept = $0 !~ /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)(\[[a-z,]+\])?==/ } kept' \
        requirements.lock > rest.lock \
      && /opt/clf/bin/pip install --no-deps --require-hashes --requirement rest.lock \
      && sed -nE 's/^(torch|torchvision)==([0-9.]+).*/\1==\2/p' requirements.lock > torch.txt \
      && /opt/clf/bin/pip install --index-url "${TORCH_INDEX}" --requirement torch.txt; \
    fi
# Our own code last: a change of it costs seconds.
COPY --from=wheel /wheel /wheel
RUN /opt/clf/bin/pip install --no-cache-dir --no-deps /wheel/*.whl && /opt/clf/bin/pip check && /opt/clf/bin/clf configs >/dev/null

FROM ${BASE_IMAGE}
ARG SOURCE=unknown
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="clf" \
      org.opencontainers.image.description="Train, check, export and serve image classifiers from YAML" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 clf && useradd --uid 10001 --gid clf --create-home --shell /usr/sbin/nologin clf \
    && mkdir -p /work/runs && chown -R clf:clf /work
COPY --from=build /opt/clf /opt/clf
# Weights from the hub and compiled kernels go into the home folder; what is in /work/runs stays.
ENV PATH=/opt/clf/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
USER 10001:10001
VOLUME ["/work/runs"]
# The step is finished, last.ckpt written, and the exit code is 143.
STOPSIGNAL SIGTERM
ENTRYPOINT ["clf"]
CMD ["--help"]
