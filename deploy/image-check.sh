#!/bin/sh
# Builds the image without Docker and runs it as Kubernetes would: uid 10001, a root file system that cannot be written,
# against a real Kafka and a real Redis (those of the tests). On Debian as root, after `make test`: some three minutes.
set -eu
cd "$(dirname "$0")/.."
sh deploy/image-without-docker.sh

work=$(mktemp -d)
container=$(buildah from localhost/trimtab)
root=$work/root
mkdir "$root" "$work/journal"
chown 10001:10001 "$work/journal"
services='' daemon=''
cleanup() {
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    [ -z "$services" ] || kill "$services" 2>/dev/null || true
    for place in dev proc tmp var/lib/trimtab ''; do umount "$root/$place" 2>/dev/null || true; done
    buildah umount "$container" >/dev/null
    buildah rm "$container" >/dev/null
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT

.venv/bin/python -m tests.services >"$work/services" &
services=$!
until [ -s "$work/services" ]; do kill -0 "$services"; sleep 1; done
# shellcheck source=/dev/null
. "$work/services"

mount --bind "$(buildah mount "$container")" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$work/journal" "$root/var/lib/trimtab"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
box() {
    env -i PATH=/opt/trimtab/bin:/usr/sbin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 \
        /usr/sbin/chroot --userspec=10001:10001 "$root" sh -c 'cd /var/lib/trimtab && exec "$@"' - "$@"
}

if box touch /written 2>/dev/null; then
    echo "the root file system can be written" >&2
    exit 1
fi
box id
box python -c "import confluent_kafka, pyarrow.ipc"
if box python -c "import pip" 2>/dev/null || box python -c "import setuptools" 2>/dev/null; then
    echo "what installs packages is left in the image" >&2
    exit 1
fi
box test -s /usr/lib/ssl/certs/ca-certificates.crt   # whom TLS trusts where the study names no ca_file
box trimtab simulate quick --write-study quick.toml --bootstrap "$TRIMTAB_TEST_KAFKA" --redis-url "$TRIMTAB_TEST_REDIS"
box trimtab run quick.toml --clock events --from earliest --until-idle 10s --listen 127.0.0.1:19464 &
daemon=$!
box trimtab simulate quick --study quick.toml --hours 24
box python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:19464/livez', timeout=4)"
wait "$daemon"
daemon=''
box trimtab status quick.toml
box trimtab verify quick.journal
