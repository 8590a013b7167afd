#!/usr/bin/env bash
# Build the training image with Docker on this machine, and push it unless told not to.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/build-docker.sh [options]

Builds Dockerfile, tags the image with the commit's short hash and latest, and pushes both tags.

  --local            build only, push nothing
  --registry PREFIX  what stands before the image's name, e.g. us-docker.pkg.dev/my-project/classifier-training
                     (needed for pushing; may also come from CLF_REGISTRY)
  --image NAME       name of the image (default: classifier-training)
  --platform NAME    platform to build for (default: linux/amd64)
  --torch-index URL  another index for torch, e.g. of CUDA 12 (docs/docker.md)
  -h, --help         this text

What follows -- is handed to docker build.
TEXT
}

fail() {
  echo "build-docker.sh: $1" >&2
  exit 2
}

push=1 registry=${CLF_REGISTRY:-} image=classifier-training platform=linux/amd64 torch_index="" extra=()
while [ $# -gt 0 ]; do
  case $1 in
    --registry | --image | --platform | --torch-index)
      [ -n "${2:-}" ] || fail "$1 needs a value"
      name=${1#--}
      declare "${name//-/_}=$2"
      shift 2
      ;;
    --local) push="" && shift ;;
    -h | --help) usage && exit ;;
    --) shift && extra=("$@") && break ;;
    *) fail "unknown option $1; --help lists them" ;;
  esac
done
[ -z "$push" ] || [ -n "$registry" ] || fail "where to? give --registry PREFIX, or --local to push nothing"
command -v docker >/dev/null || fail "docker is not installed"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
commit=$(git rev-parse --short=7 HEAD 2>/dev/null) || fail "no commit here; the image is tagged with one"
[ -z "$(git status --porcelain)" ] || commit+=-dirty
name=${registry:+$registry/}$image
version=$(sed -nE 's/^version = "([^"]+)".*/\1/p' pyproject.toml)
source=$(git remote get-url origin 2>/dev/null | sed -E 's#//[^/@]*@#//#') || true # without anybody's token
case $source in *://* | *@*:*) ;; *) source=unknown ;; esac # a folder of this machine says nothing elsewhere

DOCKER_BUILDKIT=1 docker build --platform "$platform" --tag "$name:$commit" --tag "$name:latest" \
  --build-arg "VERSION=$version" --build-arg "REVISION=$commit" --build-arg "SOURCE=$source" \
  ${torch_index:+--build-arg "TORCH_INDEX=$torch_index"} ${extra[@]+"${extra[@]}"} .
if [ -z "$push" ]; then
  echo "built $name:$commit"
  exit
fi
docker push "$name:$commit"
case $commit in
  *-dirty) echo "build-docker.sh: $name:latest is left as it was: what is not committed is nobody's latest" >&2 ;;
  *) docker push "$name:latest" ;;
esac
echo "pushed $name:$commit"
