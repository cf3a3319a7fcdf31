# shellcheck shell=bash
# Images to begin with, for a machine that reaches no registry of images: see scripts/images. Sourced by it, which sets `root`,
# `tools`, `say`, `fail` and what scripts/lib/images.sh has.

: "${tools:?}" "${debian_image:?}" "${stand_in_label:?}"
# The tags that the files of this repository ask for.
rust_image=$(sed -n 's/^ARG RUST_IMAGE=//p' "${root:?}/compose/Dockerfile")
asked_for() { sed -n "s#^ *image: \($1:[^ ]*\)\$#\1#p" "$root"/compose/*.yaml | head -n 1; }

# version_of NAME:VERSION-VARIANT
version_of() {
    local tag=${1##*:}
    printf '%s' "${tag%%-*}"
}

# absent IMAGE: neither here nor in a registry that is reached
absent() {
    ! docker image inspect "$1" >/dev/null 2>&1 && ! docker pull --quiet "$1" >/dev/null 2>&1
}

# debian SUITE TAG: Debian as small as it goes, and without what keeps packages and manuals
debian() {
    local suite=$1 tag=$2 folder
    absent "$tag" || return 0
    [ "$(id -u)" = 0 ] || fail "making $tag takes root's rights" "run it as root, or pull the images"
    if ! command -v debootstrap >/dev/null; then apt-get install -y -qq --no-install-recommends debootstrap >/dev/null; fi
    say "making $tag by debootstrap"
    folder=$(mktemp -d)
    # The script of that suite may be younger than this debootstrap; sid's serves every later one.
    local script=/usr/share/debootstrap/scripts/$suite
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    debootstrap --variant=minbase "$suite" "$folder/root" '' "$script" >"$folder/log" 2>&1 ||
        fail "no Debian $suite could be had: $(tail -n 1 "$folder/log")" "check the network"
    cat >"$folder/root/etc/apt/apt.conf.d/docker-clean" <<'CONF'
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";
CONF
    printf 'path-exclude /usr/share/doc/*\npath-include /usr/share/doc/*/copyright\npath-exclude /usr/share/man/*\n' \
        >"$folder/root/etc/dpkg/dpkg.cfg.d/docker"
    rm -rf "$folder"/root/var/cache/apt/* "$folder"/root/var/lib/apt/lists/* "$folder"/root/usr/share/man/* \
        "$folder"/root/usr/share/locale/* "$folder"/root/dev/* "$folder"/root/var/log/*.log
    find "$folder/root/usr/share/doc" -type f -not -name copyright -delete
    tar -C "$folder/root" --numeric-owner -c . | docker import --change 'CMD ["bash"]' --change "LABEL $stand_in_label=true" - "$tag" >/dev/null
    rm -rf "$folder"
}

# derived TAG FOLDER: an image from FOLDER, with the Dockerfile on stdin
derived() {
    local tag=$1 folder=$2
    cat >"$folder/Dockerfile"
    DOCKER_BUILDKIT=0 docker build --quiet --label "$stand_in_label=true" --tag "$tag" "$folder" >/dev/null ||
        fail "$tag could not be made" "see above"
    rm -rf "$folder"
}

# context FILES...: a folder with them, for `derived`
context() {
    local folder
    folder=$(mktemp -d)
    [ $# = 0 ] || cp "$@" "$folder/"
    printf '%s' "$folder"
}

rust() {
    local folder toolchain version
    absent "$rust_image" || return 0
    say "making $rust_image from the toolchain that is here"
    toolchain=$(rustc --print sysroot)
    version=$(version_of "$rust_image")
    [ "$(rustc --version | cut -d' ' -f2)" = "$version" ] || fail "$(rustc --version) is not that of $rust_image" "rustup default $version"
    folder=$(context)
    mkdir -p "$folder/rust/lib/rustlib"
    cp -a "$toolchain/bin" "$folder/rust/"
    find "$toolchain/lib" -maxdepth 1 -name "lib*" -exec cp -a {} "$folder/rust/lib/" \;
    cp -a "$toolchain/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')" "$folder/rust/lib/rustlib/"
    derived "$rust_image" "$folder" <<DOCKERFILE
FROM $debian_image
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY rust /usr/local
ENV CARGO_HOME=/usr/local/cargo
DOCKERFILE
}

# busybox has the wget that the health checks of these images' makers' go by.
with_busybox="RUN apt-get update && apt-get install -y --no-install-recommends busybox ca-certificates && rm -rf /var/lib/apt/lists/* \\
    && ln -s busybox /bin/wget"

nats() {
    local tag program
    tag=$(asked_for nats)
    absent "$tag" || return 0
    program=$(command -v nats-server || echo "$tools/bin/nats-server")
    [ "$("$program" --version)" = "nats-server: v$(version_of "$tag")" ] ||
        fail "$("$program" --version) is not that of $tag" "scripts/setup fetches it, where none is in PATH"
    say "making $tag from $program"
    derived "$tag" "$(context "$program")" <<DOCKERFILE
FROM $debian_image
$with_busybox
COPY nats-server /usr/local/bin/
CMD ["nats-server"]
DOCKERFILE
}

prometheus() {
    local tag
    tag=$(asked_for prom/prometheus)
    absent "$tag" || return 0
    say "making $tag from what scripts/setup --telemetry builds"
    derived "$tag" "$(context "$tools/bin/prometheus" "$tools/bin/promtool")" <<DOCKERFILE
FROM $debian_image
COPY prometheus promtool /bin/
RUN install -d -o 65534 -g 65534 /prometheus
USER nobody
ENTRYPOINT ["/bin/prometheus"]
DOCKERFILE
}

jaeger() {
    local tag
    tag=$(asked_for jaegertracing/jaeger)
    absent "$tag" || return 0
    say "making $tag from what scripts/setup --telemetry builds"
    derived "$tag" "$(context "$tools/bin/jaeger")" <<DOCKERFILE
FROM $debian_image
$with_busybox
COPY jaeger /cmd/jaeger/jaeger-linux
ENV JAEGER_LISTEN_HOST=0.0.0.0
USER 10001
ENTRYPOINT ["/cmd/jaeger/jaeger-linux"]
DOCKERFILE
}

# Debian's of the next release: bookworm's is older than what compose/haproxy.cfg wants.
haproxy() {
    local tag
    tag=$(asked_for haproxy)
    absent "$tag" || return 0
    debian trixie arqonbus-stand-in/trixie
    say "making $tag from Debian's package"
    derived "$tag" "$(context)" <<DOCKERFILE
FROM arqonbus-stand-in/trixie
RUN apt-get update && apt-get install -y --no-install-recommends haproxy busybox && rm -rf /var/lib/apt/lists/* \\
    && ln -s busybox /bin/wget && haproxy -v
USER 99:99
WORKDIR /var/lib/haproxy
ENTRYPOINT ["haproxy"]
CMD ["-f", "/usr/local/etc/haproxy/haproxy.cfg"]
DOCKERFILE
}

stand_ins() {
    debian bookworm "$debian_image"
    rust
    nats
    haproxy
    if [ -x "$tools/bin/prometheus" ] && [ -x "$tools/bin/jaeger" ]; then
        prometheus
        jaeger
    else
        say "no Prometheus and no Jaeger: scripts/setup --telemetry builds them"
    fi
    if absent "$(asked_for grafana/grafana)"; then
        say "there is no stand-in for $(asked_for grafana/grafana): Grafana is in no registry of packages"
    fi
}
