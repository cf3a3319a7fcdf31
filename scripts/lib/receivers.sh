# shellcheck shell=bash
# Runs Prometheus and Jaeger here, with the configuration and the flags of compose/, on ports of 127.0.0.1. Sourced by
# scripts/telemetry/{check,up}, which set `root`.
#
#   have_receivers          whether both programs are here
#   choose_ports            free ones into prometheus_port, jaeger_port, otlp_grpc_port and jaeger_more (three)
#   start_receivers FOLDER  back when both are ready; their data and logs are in FOLDER
#   stop_receivers          stops both
#   fetch URL               what is there; fails where nothing is
#
# Where they are: prometheus_url, jaeger_url, otlp_traces_url and otlp_metrics_url, set by `name_receivers`.

receivers=()
PATH=${root:?}/.tools/bin:$PATH
telemetry_python=$root/.tools/python/bin/python

have_receivers() {
    command -v prometheus promtool jaeger >/dev/null && prometheus --help 2>/dev/null | grep enable-otlp-receiver >/dev/null
}

# shellcheck disable=SC2034 # for those who source this
name_receivers() {
    prometheus_url=http://127.0.0.1:$prometheus_port
    jaeger_url=http://127.0.0.1:$jaeger_port
    otlp_metrics_url=$prometheus_url/api/v1/otlp/v1/metrics
    otlp_traces_url=http://127.0.0.1:$otlp_grpc_port
}

choose_ports() {
    local ports
    # All are held until all are known, so that they differ.
    ports=$("$telemetry_python" -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
print(*(one.getsockname()[1] for one in held))')
    read -r prometheus_port jaeger_port otlp_grpc_port jaeger_more <<<"$ports"
    name_receivers
}

start_receivers() {
    local folder=$1 flags grpc http health
    mkdir -p "$folder"
    read -r grpc http health <<<"$jaeger_more"
    ports_are_free "$prometheus_port" "$jaeger_port" "$otlp_grpc_port" "$grpc" "$http" "$health" || return 1
    mapfile -t flags < <("$telemetry_python" "$root/scripts/telemetry/files.py")
    prometheus --config.file="$root/compose/prometheus/prometheus.yml" --storage.tsdb.path="$folder/prometheus" \
        --web.listen-address="127.0.0.1:$prometheus_port" "${flags[@]}" >"$folder/prometheus.log" 2>&1 &
    receivers+=("$!")
    JAEGER_LISTEN_HOST=127.0.0.1 jaeger --config="$root/compose/jaeger/config.yaml" \
        --set="extensions.jaeger_query.http.endpoint=127.0.0.1:$jaeger_port" \
        --set="extensions.jaeger_query.grpc.endpoint=127.0.0.1:$grpc" \
        --set="extensions.healthcheckv2.http.endpoint=127.0.0.1:$health" \
        --set="receivers.otlp.protocols.grpc.endpoint=127.0.0.1:$otlp_grpc_port" \
        --set="receivers.otlp.protocols.http.endpoint=127.0.0.1:$http" >"$folder/jaeger.log" 2>&1 &
    receivers+=("$!")
    local deadline=$((SECONDS + 30))
    # Alive before and after: what answers must not be somebody else's.
    while receivers_live; do
        if { fetch "$prometheus_url/-/ready" && fetch "http://127.0.0.1:$health/status"; } >/dev/null 2>&1; then
            if receivers_live; then return 0; else break; fi
        fi
        [ "$SECONDS" -lt "$deadline" ] || break
        sleep 0.1
    done
    tail -n 5 "$folder/prometheus.log" "$folder/jaeger.log" >&2
    return 1
}

# Each of them: `kill -0` of several is content with one.
receivers_live() {
    local pid
    for pid in "${receivers[@]}"; do
        kill -0 "$pid" 2>/dev/null || return 1
    done
}

# A program that cannot have its port takes a while to say so, and another's answer is there at once.
ports_are_free() {
    "$telemetry_python" -c '
import socket, sys
for port in sys.argv[1:]:
    try:
        socket.create_server(("127.0.0.1", int(port))).close()
    except OSError as error:
        sys.exit(f"port {port} of 127.0.0.1: {error.strerror}")' "$@"
}

fetch() {
    "$telemetry_python" -c '
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=2) as answer:
    sys.stdout.write(answer.read().decode())' "$1"
}

stop_receivers() {
    local pid
    for pid in ${receivers[@]+"${receivers[@]}"}; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" || true
    done
    receivers=()
}
