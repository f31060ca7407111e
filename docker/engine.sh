# Sourced: sets `builder` to BUILDER, or to the first of docker, podman and buildah that works here.

works() { # a client without its daemon, or docker without the plugin that knows secrets, does not
    case $1 in
    docker) docker buildx version && docker info ;;
    *) "$1" info ;;
    esac >/dev/null 2>&1
}

builder=${BUILDER:-}
for found in docker podman buildah; do
    if [ -z "$builder" ] && works "$found"; then builder=$found; fi
done
if [ -z "$builder" ]; then
    echo "no docker, podman or buildah works here; on Debian: apt-get install --no-install-recommends buildah debootstrap" >&2
    exit 1
fi
