# shellcheck shell=bash
# What scripts/compose-smoke does with a stack; it sets `root`, `project`, `files` and `cluster`, and sources scripts/lib/images.sh.

: "${root:?}" "${debian_image:?}"
work=$(mktemp -d "${TMPDIR:-/tmp}/arqon-compose.XXXXXX")
project=
# What scripts/compose-smoke starts by `arq dev`.
by_arq_project=arqonbus-smoke-dev
files=()
# Of a nkey seed, a JWT, and what stands in PEM files.
secret='\bS[AOUNCX][A-Z2-7]{56}\b|eyJ[A-Za-z0-9_-]{10,}\.eyJ|BEGIN [A-Z ]*PRIVATE KEY'

say() { printf '==> %s\n' "$*"; }
ok() { printf '    ok: %s\n' "$*"; }
fail() {
    printf '    FAILED: %s\n' "$*" >&2
    exit 1
}

compose() { docker compose --project-name "$project" "${files[@]}" "$@"; }
# With everything that any profile starts.
compose_all() { compose --profile '*' "$@"; }
container() { compose ps --all --quiet "$1"; }

clean_up() {
    local status=$1
    trap - EXIT
    trap '' INT TERM HUP
    if [ "$status" != 0 ]; then
        compose_all ps --all >&2 || true
        compose_all logs --tail 15 >&2 || true
    fi
    compose_all down --volumes --timeout 5 >/dev/null 2>&1 || true
    project=$by_arq_project compose_all down --volumes --timeout 5 >/dev/null 2>&1 || true
    rm -rf "$work"
    exit "$status"
}

# Free ones, so that an ArqonBus that runs here is not in the way.
choose_ports() {
    local name
    for name in NATS NATS_2 NATS_3 MONITOR SHIELD ADMIN BRAIN; do
        export "ARQON_${name}_PORT=$(free_port)"
    done
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

up() {
    compose up --detach --wait >"$work/log" 2>&1 || fail "up does not come back: $(tail -n 5 "$work/log")"
}

# look_into IMAGE: what it is, and what it must not hold
look_into() {
    local image=$1 user label
    user=$(docker image inspect --format '{{.Config.User}}' "$image")
    case $user in
        '' | 0 | 0:* | root | root:*) fail "$image runs as root" ;;
    esac
    for label in title description source version revision licenses; do
        [ -n "$(docker image inspect --format "{{index .Config.Labels \"org.opencontainers.image.$label\"}}" "$image")" ] ||
            fail "$image has no label $label"
    done
    docker history --no-trunc --format '{{.CreatedBy}}' "$image" >"$work/history"
    docker image inspect --format '{{json .Config}}' "$image" >>"$work/history"
    # What may be in the build only, too.
    if grep -E "$secret|BEGIN CERTIFICATE|EXTRA_CA=|_MIRROR=|CARGO_INDEX=|_proxy=" "$work/history"; then fail "that is in the history of $image"; fi
    # Its own files, without those of its base.
    docker create --name "arqonbus-look-$$" "$image" >/dev/null
    docker export "arqonbus-look-$$" | tar -t >"$work/files"
    docker rm "arqonbus-look-$$" >/dev/null
    if grep -E '\.(creds|nk|pem|key)$' "$work/files" | grep -vE '^(etc/ssl|usr/share)/'; then fail "that is in $image"; fi
}

# What runs is as hardened as its file says.
look_at_containers() {
    local id name facts
    for id in $(compose ps --quiet); do
        facts=$(docker inspect --format '{{.Name}} {{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.State.Health.Status}}' "$id")
        name=${facts%% *}
        case $facts in
            *' 10001:10001 true [ALL] [no-new-privileges:true] healthy' | */"$project"-proxy-1' 99:99 true [ALL] [no-new-privileges:true] healthy') ;;
            *) fail "not hardened, or not healthy: $facts" ;;
        esac
        docker inspect --format '{{json .Config.Env}}{{json .Config.Cmd}}' "$id" >"$work/environment"
        if grep -E "$secret" "$work/environment"; then fail "that is in the environment of $name"; fi
        if docker inspect --format '{{json .NetworkSettings.Ports}}' "$id" | grep -oE '"HostIp":"[^"]*"' | grep -v '"127.0.0.1"'; then
            fail "$name is reached from elsewhere"
        fi
        # It may not become more than it is, or write what it does not own.
        [ "$(docker exec "$id" sh -c 'touch /usr/written 2>/dev/null; echo $?')" != 0 ] || fail "$name may write to /usr"
    done
    for id in $(compose ps --services); do
        case $id in
            shield*) sees "$id" /etc/arqon 'config.toml control.creds fleet.nk' ;;
            brain*) sees "$id" /etc/arqon 'config.toml control.creds presence.creds' ;;
            nats*) ! docker exec "$(container "$id")" sh -c 'grep -rlE "S[AOU][A-Z2-7]{56}" /var/lib/nats' || fail "$id holds a seed" ;;
        esac
    done
    ok 'no root, no capability, nothing to write to, no secret in an environment; each sees only its own secrets; loopback only'
}

# sees SERVICE FOLDER FILES: all that is there
sees() {
    local there
    there=$(docker exec "$(container "$1")" ls "$2" | sort | tr '\n' ' ')
    [ "$there" = "$3 " ] || fail "$1 has $there in $2, and should have $3"
}

# The admin's state, as `arq dev up` takes it out, and arq itself from its image.
get_state() {
    local image_arq nats
    mkdir -p "$work/state"
    compose cp init:/var/lib/arqon/.arqon/. "$work/state" >"$work/log" 2>&1 || fail "the state cannot be copied: $(cat "$work/log")"
    nats=\"nats://127.0.0.1:$ARQON_NATS_PORT\"
    if [ -n "${cluster:-}" ]; then
        nats+=", \"nats://127.0.0.1:$ARQON_NATS_2_PORT\", \"nats://127.0.0.1:$ARQON_NATS_3_PORT\""
    fi
    cat >"$work/state/context.toml" <<TOML
nats = [$nats]
nats_monitor = "http://127.0.0.1:$ARQON_MONITOR_PORT"
shield_url = "ws://127.0.0.1:$ARQON_SHIELD_PORT/v1/socket"
admin_url = "http://127.0.0.1:$ARQON_ADMIN_PORT"
default_tenant = "acme"
default_user = "dev"
audience = "arqon"
issuer = "arqon-development"
TOML
    if [ ! -x "$work/arq" ]; then
        image_arq=$(docker create "$(image_of arq)")
        docker cp "$image_arq:/usr/local/bin/arq" "$work/arq" >/dev/null
        docker rm "$image_arq" >/dev/null
    fi
}

keys_of_state() { (cd "$work/state/spine" && find . -name '*.nk' -o -name '*.pub' | sort | xargs sha256sum); }

smoke() { scripts/smoke --state "$work/state" --arq "$work/arq" "$@" || fail 'the smoke test'; }

# healthy SERVICE STARTED: whether it is, since another start than that one
healthy() {
    local state
    state=$(docker inspect --format '{{.State.StartedAt}} {{.State.Health.Status}}' "$(container "$1")")
    [ "${state% *}" != "$2" ] && [ "${state#* }" = healthy ]
}

# crash SERVICE: its process dies as if by a fault; its container comes back without anybody's help
crash() {
    local id started deadline=$((SECONDS + 90))
    id=$(container "$1")
    started=$(docker inspect --format '{{.State.StartedAt}}' "$id")
    # Not by docker kill, after which Docker takes it for stopped on purpose.
    docker run --rm --pid host --entrypoint sh "$debian_image" -c "kill -KILL $(docker inspect --format '{{.State.Pid}}' "$id")"
    until healthy "$1" "$started"; do
        [ "$SECONDS" -lt "$deadline" ] || fail "$1 did not come back"
        sleep 0.5
    done
}

# settled SHIELDS BRAINS: waits until so many are heard by way of NATS, and are ready. Who lost its server looks for another
# one first, and for as long may not know of a policy.
settled() {
    local deadline=$((SECONDS + 60))
    until "$work/arq" --state "$work/state" --json status 2>/dev/null | python3 -c '
import json, sys
status = json.load(sys.stdin)
shields = sum(shield["ready"] for shield in status["shields"])
brains = sum(brain["warm"] for brain in status["brains"])
sys.exit([shields, brains] != [int(word) for word in sys.argv[1:]])' "$@" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || fail "there are no $1 Shields and $2 Brains: $("$work/arq" --state "$work/state" status 2>&1)"
        sleep 0.5
    done
}

no_secret_in_container_logs() {
    compose_all logs --no-log-prefix >"$work/logs" 2>&1
    if grep -E "$secret" "$work/logs"; then fail 'that is in the logs'; fi
}

# by_arq: the same files by `arq dev`, as a project of its own beside the other one
by_arq() {
    local state=$work/by-arq
    local dev=(env COMPOSE_PROJECT_NAME="$by_arq_project" "$work/arq" --state "$state" dev)
    "${dev[@]}" up --profile core --port-base 0 --quiet --json >"$work/up" 2>"$work/log" || fail "arq dev up: $(tail -n 5 "$work/log")"
    grep -q '"ready":true' "$work/up" || fail "arq dev up says: $(cat "$work/up")"
    "$work/arq" --state "$state" pub lobby hello || fail 'arq cannot publish'
    "$work/arq" --state "$state" tenant create initech 2>"$work/log" || fail "no tenant is made: $(cat "$work/log")"
    "${dev[@]}" up --quiet --json >"$work/up" 2>"$work/log" || fail "a second arq dev up: $(tail -n 5 "$work/log")"
    "${dev[@]}" restart shield 2>"$work/log" || fail "arq dev restart: $(tail -n 5 "$work/log")"
    "$work/arq" --state "$state" pub lobby again || fail 'arq cannot publish after a restart'
    "${dev[@]}" --json logs shield --lines 1 >"$work/said" || fail 'arq dev logs'
    grep -q '^{"line":".*","part":"shield"}$' "$work/said" || fail "arq dev logs says: $(cat "$work/said")"
    "${dev[@]}" down 2>"$work/log" || fail "arq dev down: $(tail -n 5 "$work/log")"
    ! "${dev[@]}" status >/dev/null 2>&1 || fail 'arq dev status finds it running after down'
    "${dev[@]}" up --quiet --json >"$work/up" 2>"$work/log" || fail "arq dev up after down: $(tail -n 5 "$work/log")"
    "$work/arq" --state "$state" tenant list --names | grep -qx initech || fail 'what it keeps did not stay'
    "${dev[@]}" reset --force >/dev/null 2>"$work/log" || fail "arq dev reset: $(tail -n 5 "$work/log")"
    [ ! -e "$state" ] || fail "arq dev reset leaves $(find "$state")"
    nothing_left "$by_arq_project"
    ok 'arq dev up, twice; restart, logs, down; up again as it was; reset leaves nothing'
}

# nothing_left [PROJECT]
nothing_left() {
    local kind left
    for kind in 'ps --all' 'volume ls' 'network ls'; do
        # shellcheck disable=SC2086 # a command and its flag
        left=$(docker $kind --quiet --filter "label=com.docker.compose.project=${1:-$project}")
        [ -z "$left" ] || fail "docker $kind: $left is left"
    done
}

# As docs/containers.md has it.
rotate_fleet_key() {
    local rotate=(compose_all run --rm --no-deps arq pool rotate-key default)
    if "${rotate[@]}" --wait 5s >"$work/log" 2>&1; then fail 'a Shield has a key that nobody gave to it'; fi
    compose run --rm init >"$work/log" 2>&1 || fail "init fails: $(tail -n 3 "$work/log")"
    "${rotate[@]}" >"$work/log" 2>&1 || fail "the fleet key is not replaced: $(tail -n 3 "$work/log")"
    smoke --no-sdk
    ok 'the fleet key is replaced'
}

# Prometheus and Jaeger get what Shield and Brain have been sending to nobody. Grafana too, where its image can be had.
telemetry() {
    local services=(prometheus jaeger) answer deadline
    if ! docker image inspect "$(grafana_image)" >/dev/null 2>&1 && ! docker pull --quiet "$(grafana_image)" >/dev/null 2>&1; then
        say "NOT RUN: $(grafana_image), which this machine cannot have"
    else
        services+=(grafana)
    fi
    say "with ${services[*]}"
    compose --profile full up --detach --wait "${services[@]}" >"$work/log" 2>&1 || fail "up does not come back: $(tail -n 5 "$work/log")"
    smoke --no-sdk
    deadline=$((SECONDS + 60))
    until answer=$(get 'http://127.0.0.1:9090/api/v1/query?query=sum(arqon_shield_sessions_opened_total)' | grep -o '"value":\[[^]]*\]') &&
        get 'http://127.0.0.1:9090/api/v1/query?query=target_info' | grep -q arqon-brain; do
        [ "$SECONDS" -lt "$deadline" ] || fail 'Prometheus has no metrics of Shield and Brain'
        sleep 1
    done
    until get 'http://127.0.0.1:16686/api/services' | grep -q 'arqon-shield'; do
        [ "$SECONDS" -lt "$deadline" ] || fail 'Jaeger has no trace of Shield'
        sleep 1
    done
    ok "sessions in Prometheus: $answer; traces are in Jaeger"
    case " ${services[*]} " in
        *' grafana '*) get http://127.0.0.1:3000/api/health | grep -q '"database": *"ok"' || fail 'Grafana is not well' ;;
    esac
}

grafana_image() { sed -n 's/^ *image: \(grafana.*\)$/\1/p' "$root/compose/observability.yaml"; }

get() { python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())' "$1" 2>/dev/null; }

# A client of the Shield that stops hears everything that is said, by way of the other one.
drain_through_proxy() {
    local pid
    PYTHONPATH=$root/sdk-python/src "$root/.tools/python/bin/python" "$root/scripts/compose/drain_client.py" \
        "ws://127.0.0.1:$ARQON_SHIELD_PORT/v1/socket" "$("$work/arq" --state "$work/state" auth gen)" >"$work/drain" 2>&1 &
    pid=$!
    sleep 2
    compose restart shield-1 >/dev/null 2>&1
    compose restart shield-2 >/dev/null 2>&1
    wait "$pid" || fail "$(cat "$work/drain")"
    ok "$(cat "$work/drain")"
    up
}
