"""Checks what compose/ says against itself and against what there is: no program is needed for it.

Exit status 1 where something is wrong; each problem is a line.
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections import Counter
from collections.abc import Iterator

import catalogue
import files
from files import COMPOSE, ROOT, RUNBOOK_URL, RUNBOOKS

#: Of shield/telemetry/src/trace: who has spans, and what they are called.
SPANS = {
    "arqon-shield": {
        *("shield.connect", "shield.auth", "shield.exchange", "shield.join", "shield.publish"),
        *("shield.policy", "shield.spine", "shield.deliver", "shield.deliver presence"),
    },
    "arqon-brain": {"brain.track", "brain.activity"},
}
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
#: What Grafana fills in by itself.
BUILT_IN = {"__rate_interval", "__interval", "__range", "__from", "__to", "__url_time_range"}


def names() -> Iterator[str]:
    """Every name of a metric stands in the catalogue, and every recorded one is recorded."""
    known = catalogue.read()
    recorded = {rule.name for rule in files.rules() if rule.kind == "record"}
    queries = [*files.panel_queries(), *files.runbook_queries()]
    queries += [files.Query(rule.where, rule.expr) for rule in files.rules()]
    for query in queries:
        # Texts between quotes are values of labels.
        bare = re.sub(r'"[^"]*"', '""', query.expr)
        for name in re.findall(r"\b(?:arqon|process)_\w+", bare):
            if name not in known:
                yield f"{query.where}: there is no metric {name}"
        for name in re.findall(r"\barqon:[\w:]+", bare):
            if name not in recorded:
                yield f"{query.where}: no rule records {name}"
        for group in re.findall(r"\bby \(([^)]*)\)", bare):
            labels = {label.strip() for label in group.split(",") if label.strip()}
            used = [
                known[name]
                for name in re.findall(r"\b(?:arqon|process)_\w+", bare)
                if name in known
            ]
            there = catalogue.COMMON_LABELS | {"le"} | {metric.label or "" for metric in used}
            if used and not labels <= there:
                yield f"{query.where}: none of its metrics has a label {', '.join(labels - there)}"


def runbooks() -> Iterator[str]:
    """Each alert has one runbook, which quotes it, and there is no other."""
    alerts = files.alerts()
    wanted = {alert.name for alert in alerts}
    for path in sorted(RUNBOOKS.glob("*")):
        if path.name not in {f"{name}.md" for name in wanted}:
            yield f"runbooks/{path.name}: there is no such alert"
    for alert in alerts:
        path = RUNBOOKS / f"{alert.name}.md"
        if alert.annotations.get("runbook_url") != f"{RUNBOOK_URL}/{alert.name}.md":
            yield f"{alert.where}: runbook_url is not {RUNBOOK_URL}/{alert.name}.md"
        if not alert.annotations.get("summary"):
            yield f"{alert.where}: has no summary"
        if alert.labels.get("severity") not in ("critical", "warning"):
            yield f"{alert.where}: severity is neither critical nor warning"
        if not path.exists():
            yield f"{alert.where}: has no runbooks/{path.name}"
            continue
        text = path.read_text()
        if not text.startswith(f"# {alert.name}\n"):
            yield f"runbooks/{path.name}: does not begin with its name"
        if re.findall(r"^## (.+)$", text, re.M) != SECTIONS:
            yield f"runbooks/{path.name}: its sections are not {', '.join(SECTIONS)}"
            continue
        blocks = [" ".join(block.split()) for block in files.promql_blocks(text)]
        if " ".join(alert.expr.split()) not in blocks:
            yield f"runbooks/{path.name}: does not quote the expression of the alert as it is now"
        diagnosis = text.split("## Diagnosis")[1].split("## Mitigation")[0]
        if not files.promql_blocks(diagnosis):
            yield f"runbooks/{path.name}: its diagnosis has no query"


def tests_of_rules() -> Iterator[str]:
    """Each alert is tested to fire, and not to."""
    fires: Counter[str] = Counter()
    silent: Counter[str] = Counter()
    tested: set[pathlib.Path] = set()
    for path in sorted((COMPOSE / "prometheus/tests").glob("*.yml")):
        loaded = files.load_yaml(path)
        tested |= {(path.parent / rule_file).resolve() for rule_file in loaded["rule_files"]}
        for test in loaded["tests"]:
            for case in test.get("alert_rule_test", []):
                expected = case.get("exp_alerts", [])
                (fires if expected else silent)[case["alertname"]] += 1
                # One series of several that does not fire is as good as a test of its own.
                if expected and 0 < len(expected) < len(test["input_series"]):
                    silent[case["alertname"]] += 1
    for path in sorted((COMPOSE / "prometheus/rules").glob("*.yml")):
        if path.resolve() not in tested:
            yield f"rules/{path.name}: no file of tests/ tests it"
    for alert in files.alerts():
        if not fires[alert.name]:
            yield f"{alert.where}: no test makes it fire"
        if not silent[alert.name]:
            yield f"{alert.where}: no test shows when it does not fire"


def dashboards() -> Iterator[str]:
    """Data sources, variables, places and links of dashboards."""
    provisioned = {
        source["uid"]: source["type"]
        for source in files.load_yaml(COMPOSE / "grafana/provisioning/datasources/datasources.yml")[
            "datasources"
        ]
    }
    boards = files.dashboards()
    uids = Counter(board["uid"] for board in boards.values())
    yield from (f"two dashboards have the uid {uid}" for uid, count in uids.items() if count > 1)
    for file, board in boards.items():
        text = (COMPOSE / "grafana/dashboards" / file).read_text()
        for kind, uid in re.findall(r'"type": "(\w+)", "uid": "(\w+)"', text):
            if provisioned.get(uid) != kind:
                yield f"{file}: no data source {uid} of type {kind} is provisioned"
        variables = {variable["name"] for variable in board["templating"]["list"]}
        for name in set(re.findall(r"\$\{?(\w+)", text)) - variables - BUILT_IN:
            if (
                not name.startswith("__field")
                and not name.startswith("__value")
                and name != "__all"
            ):
                yield f"{file}: there is no variable ${name}"
        ids = Counter(panel["id"] for panel in files.panels(board))
        yield from (
            f"{file}: two panels have the id {id_}" for id_, count in ids.items() if count > 1
        )
        taken: dict[tuple[int, int], str] = {}
        for panel in files.panels(board):
            if panel["type"] != "row" and not panel.get("description"):
                yield f"{file}: {panel['title']} has no description"
            if panel["type"] not in ("row", "text") and not panel.get("targets"):
                yield f"{file}: {panel['title']} asks nothing"
            place = panel["gridPos"]
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    other = taken.setdefault((x, y), panel["title"])
                    if other != panel["title"] or x >= 24:
                        yield f"{file}: {panel['title']} lies over {other} or outside"
                        break
    for link in files.links():
        if link.url.startswith("/d/"):
            if re.split(r"[/?]", link.url)[2] not in uids:
                yield f"{link.where}: there is no such dashboard"
        elif not link.url.startswith("/explore?schemaVersion=1&panes="):
            yield f"{link.where}: leads neither to a dashboard nor to Explore"
    found = list(files.trace_links())
    if not found:
        yield "no panel leads to Jaeger"
    for traces in found:
        query = traces.query
        if provisioned.get(query["datasource"]["uid"]) != "jaeger":
            yield f"{traces.where}: its data source is not Jaeger"
        if query["service"] not in SPANS:
            yield f"{traces.where}: there is no service {query['service']}"
        elif "operation" in query and query["operation"] not in SPANS[query["service"]]:
            yield f"{traces.where}: {query['service']} has no span {query['operation']}"


def compose() -> Iterator[str]:
    """Images, rights, ports and mounts of compose/observability.yaml."""
    path = COMPOSE / "observability.yaml"
    whole = files.load_yaml(path)
    services = files.services()
    lines = path.read_text().splitlines()
    setup = (ROOT / "scripts/lib/telemetry.sh").read_text()
    for name, service in services.items():
        image, _, tag = service["image"].rpartition(":")
        version = re.search(rf"^{name}_version=(\S+)$", setup, re.M)
        if not image or "." in image.split("/")[0]:
            yield f"{name}: its image has no tag, or names a registry"
        if not version or tag.removeprefix("v") != version.group(1):
            yield f"{name}: {tag} is not the version that scripts/setup --telemetry has"
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
            yield f"{name}: its root is not read-only, or it keeps capabilities"
        if service.get("user", "0").split(":")[0] in ("0", "root"):
            yield f"{name}: runs as root"
        if "test" not in service.get("healthcheck", {}):
            yield f"{name}: has no health check"
        for key in service.get("environment", {}):
            if re.search("PASSWORD|SECRET_KEY|TOKEN", key):
                yield f"{name}: {key} is a secret"
        for port in service.get("ports", []):
            if not re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port):
                yield f"{name}: port {port} is not one of 127.0.0.1"
            at = next(number for number, line in enumerate(lines) if line.strip() == f'- "{port}"')
            if not lines[at - 1].strip().startswith("#"):
                yield f"{name}: nothing says what port {port} is for"
        for volume in service.get("volumes", []):
            source, target, *mode = volume.split(":")
            if source.startswith("."):
                if not (COMPOSE / source).exists():
                    yield f"{name}: {source} is not there"
                if mode != ["ro"]:
                    yield f"{name}: {target} may be written to"
            elif source not in whole["volumes"]:
                yield f"{name}: there is no volume {source}"
    yield from prometheus_mounts()
    yield from grafana_mounts()
    yield from receivers()


def prometheus_mounts() -> Iterator[str]:
    """The rules that Prometheus is told of are those of this folder."""
    service = files.services()["prometheus"]
    mounted = files.mounts(service)
    flags = dict(flag.split("=", 1) for flag in service["command"] if "=" in flag)
    config = flags["--config.file"]
    if mounted.get(config) != COMPOSE / "./prometheus/prometheus.yml":
        yield f"prometheus: {config} is not compose/prometheus/prometheus.yml"
    if "--web.enable-otlp-receiver" not in service["command"]:
        yield "prometheus: does not receive OTLP"
    for pattern in files.load_yaml(COMPOSE / "prometheus/prometheus.yml")["rule_files"]:
        folder = str(pathlib.PurePosixPath(config).parent / pathlib.PurePosixPath(pattern).parent)
        if mounted.get(folder) != COMPOSE / "./prometheus/rules":
            yield f"prometheus: no rules are mounted at {folder}"
    storage = flags["--storage.tsdb.path"]
    if not any(volume == f"prometheus-data:{storage}" for volume in service["volumes"]):
        yield f"prometheus: {storage} is no volume"


def grafana_mounts() -> Iterator[str]:
    """Grafana finds data sources and dashboards where they are mounted."""
    service = files.services()["grafana"]
    mounted = files.mounts(service)
    if mounted.get("/etc/grafana/provisioning") != COMPOSE / "./grafana/provisioning":
        yield "grafana: compose/grafana/provisioning is not where it looks"
    for provider in files.load_yaml(COMPOSE / "grafana/provisioning/dashboards/dashboards.yml")[
        "providers"
    ]:
        folder = provider["options"]["path"]
        if mounted.get(folder) != COMPOSE / "./grafana/dashboards":
            yield f"grafana: no dashboards are mounted at {folder}"
        home = pathlib.PurePosixPath(
            service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        )
        if str(home.parent) != folder or home.name not in files.dashboards():
            yield f"grafana: there is no {home}"


def receivers() -> Iterator[str]:
    """The addresses of data sources and of OTLP are those that the services listen on."""
    services = files.services()
    sources = files.load_yaml(COMPOSE / "grafana/provisioning/datasources/datasources.yml")[
        "datasources"
    ]
    for source in sources:
        host, _, port = source["url"].removeprefix("http://").partition(":")
        if f"127.0.0.1:{port}:{port}" not in services.get(host, {}).get("ports", []):
            yield f"data source {source['uid']}: {source['url']} is no service and port"
    jaeger = files.load_yaml(COMPOSE / "jaeger/config.yaml")
    listens = {
        "16686": jaeger["extensions"]["jaeger_query"]["http"]["endpoint"],
        "13133": jaeger["extensions"]["healthcheckv2"]["http"]["endpoint"],
        "4317": jaeger["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"],
        "4318": jaeger["receivers"]["otlp"]["protocols"]["http"]["endpoint"],
    }
    for port, endpoint in listens.items():
        # The image sets that variable to 0.0.0.0.
        if endpoint != f"${{env:JAEGER_LISTEN_HOST:-localhost}}:{port}":
            yield f"jaeger: {endpoint} is not what others expect on port {port}"
    if (
        f"--config={next(iter(files.mounts(services['jaeger'])))}"
        not in services["jaeger"]["command"]
    ):
        yield "jaeger: does not read the configuration that is mounted"


def main() -> int:
    """Prints every problem, and how many checks there were."""
    checks = (names, runbooks, tests_of_rules, dashboards, compose)
    problems = [problem for check in checks for problem in check()]
    for problem in problems:
        print(problem, file=sys.stderr)
    queries, traces = len(list(files.panel_queries())), len(list(files.trace_links()))
    print(
        f"{len(files.dashboards())} dashboards with {queries} queries, {traces} links to Jaeger, "
        f"{len(files.rules())} rules, {len(files.alerts())} of them alerts: "
        f"{len(problems)} problems"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
