# shellcheck shell=bash
# The programs that telemetry is tested with: Prometheus with promtool, Jaeger, the types that Grafana's dashboards are
# checked by, and a reader of YAML. Sourced by scripts/setup, which sets `root`, `tools` and `say` and makes .tools/python.
#
# Prometheus and Jaeger are built from their Go modules: Debian takes the OTLP receiver out of its Prometheus, and has no Jaeger.
# Both go without their pages, which those modules do not hold; their APIs are whole.

# The release with long-term support, to July 2027.
prometheus_version=3.13.5
prometheus_module=v0.313.5
# The last release that is one of its Go module too: later ones are tagged v2 only, which the module's name does not allow.
jaeger_version=2.13.0
jaeger_module=v1.76.0
# The release of Grafana whose dashboards are meant, and what checks them by its types.
grafana_version=13.2.3
typescript_version=7.0.2

# build_go NAME MODULE VERSION VARIABLE COMMAND...: MODULE/cmd/COMMAND of each, in .tools/bin, with VARIABLE set to what it says
# there. By a Go module of ours: `go install` takes none that replaces others, as these do.
build_go() {
    local name=$1 module=$2 version=$3 variable=$4 folder=${tools:?}/go/$1 packages
    shift 4
    if ! command -v go >/dev/null; then
        say "Go is not installed: $name will not run"
        return 1
    fi
    say "building $name (it takes minutes where Go has not built it before)"
    rm -rf "$folder"
    mkdir -p "$folder/bin" "$tools/bin"
    packages=("${@/#/$module/cmd/}")
    # Service discovery is by file only: that of the clouds is the greater part of Prometheus.
    if ! (
        cd "$folder" && go mod init arqon.invalid/tools &&
            go get -tool "${packages[@]/%/@$version}" &&
            CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags remove_all_sd -ldflags "-s -w -X $variable" -o bin/ "${packages[@]}"
    ) >"$tools/$name.log" 2>&1; then
        say "$name could not be built ($(tail -n 1 "$tools/$name.log")): it will not run"
        return 1
    fi
    mv "$folder"/bin/* "$tools/bin/"
    rm -rf "$folder"
}

want_prometheus() {
    if command -v promtool >/dev/null && prometheus --help 2>/dev/null | grep enable-otlp-receiver >/dev/null; then return; fi
    if "$tools/bin/prometheus" --version 2>/dev/null | grep -qF "version $prometheus_version " && [ -x "$tools/bin/promtool" ]; then return; fi
    build_go prometheus github.com/prometheus/prometheus "$prometheus_module" \
        "github.com/prometheus/common/version.Version=$prometheus_version" prometheus promtool
}

want_jaeger() {
    if "$tools/bin/jaeger" version 2>/dev/null | grep -qF "\"v$jaeger_version\""; then return; fi
    build_go jaeger github.com/jaegertracing/jaeger "$jaeger_module" \
        "github.com/jaegertracing/jaeger/internal/version.latestVersion=v$jaeger_version" jaeger
}

# What scripts/telemetry/check-dashboards runs.
want_dashboard_types() {
    local folder=$tools/grafana wanted="@grafana/schema@$grafana_version typescript@$typescript_version"
    if [ "$(cat "$folder/arqon-installed" 2>/dev/null)" = "$wanted" ]; then return; fi
    if ! command -v npm >/dev/null; then
        say "npm is not installed: dashboards will not be checked"
        return 1
    fi
    say "fetching the types of Grafana $grafana_version"
    mkdir -p "$folder"
    # shellcheck disable=SC2086 # two packages
    if ! npm install --silent --no-fund --no-audit --prefix "$folder" $wanted >"$tools/grafana.log" 2>&1; then
        say "the types of Grafana could not be fetched ($(tail -n 1 "$tools/grafana.log")): dashboards will not be checked"
        return 1
    fi
    printf '%s\n' "$wanted" >"$folder/arqon-installed"
}

# What the check itself reads configurations with.
want_yaml() {
    local list=${root:?}/scripts/telemetry/requirements.txt done=$tools/python/arqon-telemetry
    if cmp -s "$list" "$done" && "$tools/python/bin/python" -c 'import yaml' 2>/dev/null; then return; fi
    say "installing what telemetry's configuration is checked with"
    if ! "$tools/python/bin/python" -m pip --disable-pip-version-check install --quiet --only-binary :all: -r "$list"; then
        say "PyYAML could not be had: telemetry will not be checked"
        return 1
    fi
    cp "$list" "$done"
}

# All of them that this machine can have; false where one is missing.
want_telemetry() {
    local missing=0
    want_prometheus || missing=1
    want_jaeger || missing=1
    want_dashboard_types || missing=1
    want_yaml || missing=1
    return "$missing"
}
