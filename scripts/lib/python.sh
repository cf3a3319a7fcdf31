# shellcheck shell=bash
# Which Pythons are here. Sourced by scripts/setup and scripts/sdk, which set `root`.
#
# The newest one is Debian's of a later suite, where this machine has none: in a root of its own, since its C library is
# newer than this system's.

# shellcheck disable=SC2034 # for those who source this
python_versions=(3.10 3.11 3.12 3.13 3.14)
later_python=3.14
later_suite=forky
later_root=${root:?}/.tools/debian-$later_suite

# find_python VERSION: prints the path of a Python of that version, pyenv's too
find_python() {
    local candidate
    for candidate in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        # A shim of pyenv is there for versions that are not.
        if [ -n "$candidate" ] && [ "$("$candidate" -c 'import sys, venv; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$1" ]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# in_later_root COMMAND...: runs it in the later suite. This tree and its .tools have the paths there that they have here.
# The mounts are seen by that command only, and end with it.
in_later_root() {
    # shellcheck disable=SC2016 # the inner shell's
    unshare --mount sh -euc '
        inside=$1 tree=$2 tools=$3
        shift 3
        mkdir -p "$inside$tree" "$inside$tools"
        mount --bind "$tree" "$inside$tree"
        [ "$tools" = "$tree/.tools" ] || mount --bind "$tools" "$inside$tools"
        mount --rbind /dev "$inside/dev"
        mount -t proc proc "$inside/proc"
        exec chroot "$inside" env -C "$tree" "$@"' \
        sh "$later_root" "$root" "$(realpath "$root/.tools")" "$@"
}
