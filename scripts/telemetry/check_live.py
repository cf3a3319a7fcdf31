"""Executes every expression of compose/ on a Prometheus that an ArqonBus under load feeds.

An expression fails if Prometheus refuses it or if it gives nothing. Of an alert, which should give
nothing, each selector has to give something, and so has the expression without its comparisons.
Then its traces are looked for in Jaeger.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import catalogue
import files
import promql
from check_files import SPANS
from files import Query

#: Seconds that may pass until everything has been counted, sent, and recorded by rules.
PATIENCE = 110.0
#: Once a second is often enough to look.
PACE = 1.0
#: What an API answers.
Json = Any
#: What Grafana would fill in.
VARIABLES = {"$__rate_interval": "1m", "$__interval": "15s", "$instance": ".+", "$tenant": "acme"}


class Receiver:
    """An HTTP API that answers with JSON."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: object) -> Json:
        """What is under `data`."""
        url = f"{self._url}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            told = json.loads(error.read())
            raise Refused(told.get("error", told)) from error


class Refused(Exception):
    """The API does not take what was asked."""


class Prometheus(Receiver):
    """What Prometheus says of expressions."""

    def parse(self, expr: str) -> promql.Tree:
        """The syntax tree."""
        tree: promql.Tree = self.get("/api/v1/parse_query", query=expr)
        return tree

    def values(self, expr: str, *, ranged: bool = False) -> list[float]:
        """Every number that the expression gives now, or over the last minutes as a panel asks."""
        if ranged:
            now = time.time()
            found = self.get(
                "/api/v1/query_range", query=expr, start=now - 120, end=now, step="5s"
            )["result"]
            pairs = [pair for series in found for pair in series["values"]]
        else:
            data = self.get("/api/v1/query", query=expr)
            found = data["result"]
            pairs = [found] if data["resultType"] == "scalar" else [one["value"] for one in found]
        return [value for value in (float(text) for _, text in pairs) if not math.isnan(value)]


def filled(expr: str) -> str:
    """The expression with Grafana's variables filled in."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def _replaced(text: str, label: str) -> str:
    """The value of a tag as Grafana fills it in."""
    return re.sub(r"\$\{__field\.labels\.\w+\}", label, text).replace("${tenant}", "acme")


def queries() -> list[Query]:
    """What has to give something: panels, variables, recording rules, and what runbooks ask."""
    found = [
        Query(query.where, filled(query.expr), query.ranged) for query in files.panel_queries()
    ]
    found += [Query(rule.where, rule.expr) for rule in files.rules() if rule.kind == "record"]
    return found


class Check:
    """All that is to be true, asked again until it is."""

    def __init__(self, prometheus: Prometheus, jaeger: Receiver) -> None:
        self._prometheus = prometheus
        self._jaeger = jaeger
        self._known = catalogue.read()
        self._recorded = {rule.name for rule in files.rules() if rule.kind == "record"}

    # -- what is looked at

    def expressions(self) -> Iterator[tuple[str, Callable[[], str | None]]]:
        """Each check by its name; it gives what is wrong, or None."""
        for query in queries():
            yield query.where, self._gives(query)
        selectors: dict[str, str] = {}
        for rule in files.rules():
            yield f"{rule.where}: its names", self._names(rule.expr)
            if rule.kind == "alert":
                yield rule.where, self._runs(rule.expr)
                tree = self._prometheus.parse(rule.expr)
                bare = promql.text(promql.without_comparisons(tree))
                yield f"{rule.where}, without comparisons", self._gives(Query(rule.where, bare))
                for selector in promql.selectors(tree):
                    selectors.setdefault(promql.text(selector), rule.where)
        for query in files.runbook_queries():
            yield f"{query.where}: its names", self._names(query.expr)
            yield query.where, self._runs(query.expr)
            for selector in promql.selectors(self._prometheus.parse(query.expr)):
                selectors.setdefault(promql.text(selector), query.where)
        for query in files.panel_queries():
            yield f"{query.where}: its names", self._names(filled(query.expr))
        for expr, where in selectors.items():
            yield f"{expr} (of {where})", self._gives(Query(where, expr))
        yield "rules", self._rules
        yield "what is told is in the catalogue", self._catalogued
        for service in ("arqon-shield", "arqon-brain"):
            yield f"spans of {service}", self._spans(service)
        for link in files.trace_links():
            yield link.where, self._traces(link)
        yield "a trace of both", self._one_trace

    def _gives(self, query: Query) -> Callable[[], str | None]:
        def look() -> str | None:
            try:
                values = self._prometheus.values(query.expr, ranged=query.ranged)
            except Refused as error:
                return f"{query.expr}: {error}"
            return None if values else f"{query.expr}: gives nothing"

        return look

    def _runs(self, expr: str) -> Callable[[], str | None]:
        def look() -> str | None:
            try:
                self._prometheus.values(expr)
            except Refused as error:
                return f"{expr}: {error}"
            return None

        return look

    def _names(self, expr: str) -> Callable[[], str | None]:
        """Every metric and every label is one that there is."""

        def look() -> str | None:
            try:
                tree = self._prometheus.parse(expr)
            except Refused as error:
                return f"{expr}: {error}"
            labels = {"le"}
            for selector in promql.selectors(tree):
                name = selector["name"]
                metric = self._known.get(name)
                if not metric and name not in self._recorded and name not in catalogue.FOREIGN:
                    return f"{expr}: there is no metric {name}"
                own = {metric.label or ""} if metric else set()
                labels |= own
                if metric and metric.kind == "histogram":
                    own = own | {"le"}
                for matcher in selector["matchers"]:
                    if metric and matcher["name"] not in catalogue.COMMON_LABELS | own:
                        return f"{expr}: {name} has no label {matcher['name']}"
            return None

        return look

    def _rules(self) -> str | None:
        """Each rule was evaluated without an error, and each recorded series is there."""
        groups = self._prometheus.get("/api/v1/rules")["groups"]
        ran = {rule["name"]: rule for group in groups for rule in group["rules"]}
        for rule in files.rules():
            if rule.name not in ran:
                return f"Prometheus does not know {rule.name}"
            if ran[rule.name]["health"] != "ok":
                return f"{rule.name}: {ran[rule.name].get('lastError') or 'not evaluated yet'}"
            if rule.kind == "record" and not self._prometheus.values(rule.name):
                return f"{rule.name} is not recorded"
        return None

    def _catalogued(self) -> str | None:
        """Nothing is told that the catalogue does not have."""
        told = self._prometheus.get("/api/v1/label/__name__/values")
        for name in told:
            if name.startswith(("arqon_", "process_")) and name not in self._known:
                return f"{name} is told, and is not in the catalogue"
        return None

    def _spans(self, service: str) -> Callable[[], str | None]:
        def look() -> str | None:
            there = self._jaeger.get(f"/api/services/{service}/operations") or []
            missing = sorted(SPANS[service] - set(there))
            return f"Jaeger has no span {', '.join(missing)} of {service}" if missing else None

        return look

    def _traces(self, link: files.TraceLink) -> Callable[[], str | None]:
        """A link finds traces; how long those here take is left to chance."""

        def look() -> str | None:
            query = link.query
            asked = {"service": query["service"], "lookback": "1h", "limit": 1}
            if "operation" in query:
                asked["operation"] = query["operation"]
            tags = dict(pair.split("=", 1) for pair in query.get("tags", "").split())
            label = re.search(r"\$\{__field\.labels\.(\w+)\}", query.get("tags", ""))
            values = self._labels(link.exprs, label.group(1)) if label else {""}
            for value in values:
                given = {name: _replaced(text, value) for name, text in tags.items()}
                if self._jaeger.get("/api/traces", **asked, tags=json.dumps(given)):
                    return None
            return f"Jaeger has none: {asked} {tags} of {', '.join(sorted(values))}"

        return look

    def _labels(self, exprs: tuple[str, ...], label: str) -> set[str]:
        """The values of a label in what a panel shows."""
        values = set()
        for expr in exprs:
            for series in self._prometheus.get("/api/v1/query", query=filled(expr))["result"]:
                values.add(series["metric"].get(label, ""))
        return values

    def _one_trace(self) -> str | None:
        """Shield and Brain tell of one join in one trace."""
        asked = {"service": "arqon-brain", "lookback": "1h", "limit": 50}
        for trace in self._jaeger.get("/api/traces", **asked) or []:
            names = {process["serviceName"] for process in trace["processes"].values()}
            if {"arqon-shield", "arqon-brain"} <= names:
                return None
        return "no trace has spans of Shield and of Brain"


def main() -> int:
    """Looks until all is well, or the patience is over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--jaeger", required=True)
    given = parser.parse_args()
    check = Check(Prometheus(given.prometheus), Receiver(given.jaeger))
    began = time.monotonic()
    # Names are asked for only once; what is well stays well.
    left = list(check.expressions())
    count = len(left)
    while True:
        wrong = []
        for name, look in left:
            problem = look()
            if problem:
                wrong.append((name, look, problem))
        took = time.monotonic() - began
        if not wrong or took > PATIENCE:
            break
        left = [(name, look) for name, look, _ in wrong]
        time.sleep(PACE)
    for name, _, problem in wrong:
        print(f"{name}: {problem}", file=sys.stderr)
    print(f"{count} checks on live data, {len(wrong)} failed, after {took:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
