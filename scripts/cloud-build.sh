#!/usr/bin/env bash
# Build the training image in Google Cloud Build, and push it to Artifact Registry.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/cloud-build.sh [options]

Submits cloudbuild.yaml with gcloud. The image is tagged with the commit's short hash, and latest.

  --project ID     project to build in (default: gcloud's own)
  --region NAME    region of the registry (default: us)
  --repo NAME      repository in Artifact Registry (default: classifier-training)
  --image NAME     name of the image (default: classifier-training)
  --allow-dirty    build although there are changes that are not committed
  --dry-run        print the command, call nothing
  -h, --help       this text
TEXT
}

fail() {
  echo "cloud-build.sh: $1" >&2
  exit 2
}

project="" region=us repo=classifier-training image=classifier-training allow_dirty="" dry_run=""
while [ $# -gt 0 ]; do
  case $1 in
    --project | --region | --repo | --image)
      [ -n "${2:-}" ] || fail "$1 needs a value"
      declare "${1#--}=$2"
      shift 2
      ;;
    --allow-dirty) allow_dirty=1 && shift ;;
    --dry-run) dry_run=1 && shift ;;
    -h | --help) usage && exit ;;
    *) fail "unknown option $1; --help lists them" ;;
  esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
commit=$(git rev-parse --short=7 HEAD 2>/dev/null) || fail "no commit here; the image is tagged with one"
if [ -z "$allow_dirty" ] && [ -n "$(git status --porcelain)" ]; then
  message="there are changes that are not committed: the image would not be that of $commit"
  if [ ! -t 0 ]; then
    fail "$message; commit them, or give --allow-dirty"
  fi
  read -r -p "cloud-build.sh: $message. Build it anyway? [y/N] " answer
  case $answer in [yY]*) ;; *) fail "not built" ;; esac
fi

command=(
  gcloud builds submit --config=cloudbuild.yaml
  "--substitutions=SHORT_SHA=$commit,_REGION=$region,_REPO_NAME=$repo,_IMAGE_NAME=$image"
)
[ -z "$project" ] || command+=("--project=$project")
command+=(.)
if [ -n "$dry_run" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi
command -v gcloud >/dev/null || fail "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"
exec "${command[@]}"
