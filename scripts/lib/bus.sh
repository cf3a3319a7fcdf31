#!/usr/bin/env bash
# Starts an ArqonBus for a script and speaks to it; sourced by dev and acceptance, which give
# `root`, the tree, and may set `state`, the folder of the ArqonBus, to another than a fresh one.
#
#   build_bus            builds everything; `arq` below is a function over the program
#   start_bus ARGS...    `arq dev up` in the background, back when it is ready
#   stop_bus             stops it; every exit of the script does it too
#   hear FILE ARGS...    `arq sub ARGS` in the background, its JSON in FILE, back when it has joined
#   watch FILE ARGS...   `arq presence ARGS --watch` likewise, back when it knows who is there
#   stop_listeners       stops what `hear` and `watch` started
#   heard FILE           how many messages FILE holds
#   until_true CMD...    waits for a command to succeed, 30 s at most

bus_pid=
listeners=()
work=$(mktemp -d "${TMPDIR:-/tmp}/arqon.XXXXXX")
state=$work/.arqon
program=${CARGO_TARGET_DIR:-${root:?}/target}/debug/arq
trap 'finish "$?"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

finish() {
    local status=$1
    trap - EXIT
    trap '' INT TERM HUP
    stop_listeners
    stop_bus || [ "$status" != 0 ] || status=1
    no_secret_in_logs || [ "$status" != 0 ] || status=1
    rm -rf "$work"
    exit "$status"
}

build_bus() {
    (cd "$root" && cargo build --locked --workspace --bins)
    "$root/scripts/brain"
    export PATH="$root/.tools/bin:$PATH"
}

arq() { "$program" --state "$state" "$@"; }

until_true() {
    local deadline=$((SECONDS + 30))
    until "$@" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}

start_bus() {
    # Not by the function: its subshell would be what $! names.
    "$program" --state "$state" dev up --native --quiet --json "$@" >"$work/up.json" 2>"$work/up.err" &
    bus_pid=$!
    local deadline=$((SECONDS + 60))
    until [ -s "$work/up.json" ]; do
        if ! kill -0 "$bus_pid" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
            cat "$work/up.err" >&2
            return 1
        fi
        sleep 0.05
    done
}

stop_bus() {
    [ -n "$bus_pid" ] || return 0
    local pid=$bus_pid
    bus_pid=
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid"
}

# No log may hold a token, a credential (three parts of base64 with dots between) or a seed.
no_secret_in_logs() {
    local found
    found=$(grep -rlE 'eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.|\bS[A-Z2-7]{57}\b' "$state/logs" 2>/dev/null) || return 0
    printf 'a token or a seed is in %s\n' "$found" >&2
    return 1
}

hear() { listen JOINED sub "$@"; }

watch() { listen PRESENCE_STATE 'presence --watch' "$@"; }

# listen FIRST COMMAND FILE ARGS...: back when FILE has a frame FIRST
listen() {
    local first=$1 command=$2 file=$3
    shift 3
    : >"$file"
    # shellcheck disable=SC2086 # a command and its flag
    "$program" --state "$state" --json $command "$@" >"$file" 2>"$file.err" &
    listeners+=("$!")
    until_true grep -q "\"op\":\"$first\"" "$file" && return
    cat "$file.err" >&2
    return 1
}

stop_listeners() {
    local pid
    for pid in ${listeners[@]+"${listeners[@]}"}; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" || true
    done
    listeners=()
}

# stop_last_listener: stops only the last one that `hear` or `watch` started
stop_last_listener() {
    local last=$((${#listeners[@]} - 1))
    kill "${listeners[$last]}" 2>/dev/null || true
    wait "${listeners[$last]}" || true
    unset "listeners[$last]"
}

heard() { grep -c '"op":"MESSAGE"' "$1" || true; }
