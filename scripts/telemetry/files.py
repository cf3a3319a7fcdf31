"""What stands in compose/: dashboards, rules, runbooks, and how they are mounted."""

from __future__ import annotations

import json
import pathlib
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose"
RUNBOOKS = COMPOSE / "runbooks"
#: Where a reader of an alert finds its page.
RUNBOOK_URL = "https://github.com/arqonbus/arqonbus/blob/main/compose/runbooks"


#: What a file holds.
Yaml = Any


@dataclass(frozen=True)
class Query:
    """An expression, and where it stands."""

    where: str
    expr: str
    #: Whether Grafana asks for a range of time or for now.
    ranged: bool = False


@dataclass(frozen=True)
class Rule:
    """A recording rule or an alert."""

    where: str
    #: `record` or `alert`.
    kind: str
    name: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]


@dataclass(frozen=True)
class TraceLink:
    """A link that opens Grafana's Explore on Jaeger."""

    where: str
    #: The query as Grafana's data source of Jaeger takes it.
    query: dict[str, Any]
    #: What the panel asks, whose labels the link may name.
    exprs: tuple[str, ...]


def load_yaml(path: pathlib.Path) -> Yaml:
    """A YAML file."""
    return yaml.safe_load(path.read_text())


def dashboards() -> dict[str, dict[str, Any]]:
    """Every dashboard, by the name of its file."""
    return {
        path.name: json.loads(path.read_text())
        for path in sorted((COMPOSE / "grafana/dashboards").glob("*.json"))
    }


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard, those of rows too."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def panel_queries() -> Iterator[Query]:
    """Every query of every panel, and those that fill variables."""
    for file, dashboard in dashboards().items():
        for variable in dashboard["templating"]["list"]:
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            if not asked:
                raise SystemExit(f"{file}: ${variable['name']} is not label_values(METRIC, LABEL)")
            yield Query(
                f"{file}: ${variable['name']}", f"count by ({asked.group(2)}) ({asked.group(1)})"
            )
        for panel in panels(dashboard):
            for target in panel.get("targets", []):
                where = f"{file}: {panel['title']}, {target['refId']}"
                yield Query(where, target["expr"], ranged=not target.get("instant", False))


def rules() -> list[Rule]:
    """Every rule of every file."""
    found = []
    for path in sorted((COMPOSE / "prometheus/rules").glob("*.yml")):
        for group in load_yaml(path)["groups"]:
            for rule in group["rules"]:
                kind = "alert" if "alert" in rule else "record"
                found.append(
                    Rule(
                        where=f"{path.name}: {rule[kind]}",
                        kind=kind,
                        name=rule[kind],
                        expr=rule["expr"],
                        labels=rule.get("labels", {}),
                        annotations=rule.get("annotations", {}),
                    )
                )
    return found


def alerts() -> list[Rule]:
    """The rules that are alerts."""
    return [rule for rule in rules() if rule.kind == "alert"]


def runbook_queries() -> Iterator[Query]:
    """Every block of PromQL of every runbook."""
    for path in sorted(RUNBOOKS.glob("*.md")):
        for number, block in enumerate(promql_blocks(path.read_text()), 1):
            yield Query(f"runbooks/{path.name}: block {number}", block)


def promql_blocks(text: str) -> list[str]:
    """The blocks of PromQL of a Markdown text."""
    return [block.strip() for block in re.findall(r"^```promql\n(.*?)^```", text, re.M | re.S)]


@dataclass(frozen=True)
class Link:
    """A link of a dashboard or a panel."""

    where: str
    url: str
    #: What the panel asks.
    exprs: tuple[str, ...] = ()


def links() -> Iterator[Link]:
    """Every link of every dashboard."""
    for file, dashboard in dashboards().items():
        for link in dashboard["links"]:
            if link["type"] == "link":
                yield Link(f"{file}: link {link['title']!r}", link["url"])
        for panel in panels(dashboard):
            config = panel.get("fieldConfig", {"defaults": {}, "overrides": []})
            of_fields = list(config["defaults"].get("links", []))
            for override in config["overrides"]:
                for item in override["properties"]:
                    of_fields += item["value"] if item["id"] == "links" else []
            exprs = tuple(target["expr"] for target in panel.get("targets", []))
            for link in of_fields + panel.get("links", []):
                yield Link(f"{file}: {panel['title']}, link {link['title']!r}", link["url"], exprs)


def trace_links() -> Iterator[TraceLink]:
    """The links to Jaeger."""
    for link in links():
        parts = urllib.parse.urlsplit(link.url)
        if parts.path == "/explore":
            panes = json.loads(urllib.parse.parse_qs(parts.query)["panes"][0])
            for pane in panes.values():
                for query in pane["queries"]:
                    yield TraceLink(link.where, query, link.exprs)


def services() -> dict[str, dict[str, Any]]:
    """The services of compose/observability.yaml."""
    found: dict[str, dict[str, Any]] = load_yaml(COMPOSE / "observability.yaml")["services"]
    return found


def mounts(service: dict[str, Any]) -> dict[str, pathlib.Path]:
    """What a service sees of compose/: the path inside, and the one here."""
    found = {}
    for volume in service.get("volumes", []):
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            found[target] = COMPOSE / source
    return found


def prometheus_flags() -> list[str]:
    """The flags of Prometheus that say neither where files are nor where it listens."""
    command: list[str] = services()["prometheus"]["command"]
    return [
        flag for flag in command if not flag.startswith(("--config.", "--storage.", "--web.listen"))
    ]


if __name__ == "__main__":
    print("\n".join(prometheus_flags()))
