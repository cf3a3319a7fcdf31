# shellcheck shell=bash
# What the images are called, and how large they are over their base. Sourced by scripts/images and scripts/compose-smoke,
# which set `root`.

# The base as the Dockerfile has it, and megabytes that each image may be over it.
debian_image=$(sed -n 's/^ARG DEBIAN_IMAGE=//p' "${root:?}/compose/Dockerfile")
declare -A size_limits=([arq]=60 [shield]=60 [brain]=120)

# What is made by scripts/images stand-in has it, and so has every image that is built on such a one.
stand_in_label=org.arqonbus.stand-in

# The images on this machine that are stand-ins, or built on one.
stand_ins_here() { docker image ls --filter "label=$stand_in_label" --format '{{.Repository}}:{{.Tag}}' | grep -v '<none>' | sort; }

extra_certificates() { cat /usr/local/share/ca-certificates/*.crt 2>/dev/null || true; }

# image_of NAME: as compose/compose.yaml has it
image_of() { sed -n "s#^ *image: \(arqonbus/$1:[^ ]*\)\$#\1#p" "$root/compose/compose.yaml" | head -n 1; }

bytes_of() { docker image inspect --format '{{.Size}}' "$1"; }

# Prints a line for each image; false where one is too large.
sizes() {
    local name image over base outcome=0 verdict
    base=$(bytes_of "$debian_image")
    for name in arq shield brain; do
        image=$(image_of "$name")
        over=$((($(bytes_of "$image") - base + 999999) / 1000000))
        verdict=ok
        if [ "$over" -gt "${size_limits[$name]}" ]; then
            verdict="TOO LARGE"
            outcome=1
        fi
        printf '%-24s %4d MB over %s, %3d at most: %s\n' "$image" "$over" "$debian_image" "${size_limits[$name]}" "$verdict"
    done
    return "$outcome"
}
