#!/bin/sh
# Builds the image where there is no Docker, and no registry: on Debian as root, with debootstrap and buildah.
#   sh deploy/image-without-docker.sh              makes localhost/trimtab
# BUILD_ARGS may hold more of `buildah build`'s arguments (a mirror's certificates, say).
# Run it with the host's network:
#   container=$(buildah from localhost/trimtab)
#   buildah run --isolation=chroot --user 10001 --volume DIRECTORY:/var/lib/trimtab "$container" -- trimtab check study.toml
set -eu
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive
for tool in debootstrap buildah; do
    command -v "$tool" >/dev/null || apt-get -q -y install --no-install-recommends "$tool"
done

base=localhost/debian:bookworm
if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase bookworm "$root" ${MIRROR:-}
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
    scratch=$(buildah from scratch)
    buildah add -q "$scratch" "$root" /
    buildah commit -q "$scratch" "$base"
    buildah rm "$scratch" >/dev/null
fi
# shellcheck disable=SC2086  # BUILD_ARGS are several words
buildah build --isolation=chroot --build-arg "BASE=$base" ${BUILD_ARGS:-} -f deploy/Dockerfile -t localhost/trimtab .
buildah images --format '{{.Name}} {{.Size}}' localhost/trimtab
