"""Syntax trees of PromQL, as Prometheus gives them: their selectors, changes, and back to text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

#: A node of a tree.
Tree = dict[str, Any]

COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}


def selectors(tree: Tree) -> Iterator[Tree]:
    """Every selector in it, as one of now: without range and offset."""
    if tree["type"] in ("vectorSelector", "matrixSelector"):
        yield {**tree, "type": "vectorSelector", "offset": 0}
    for child in children(tree):
        yield from selectors(child)


def children(tree: Tree) -> list[Tree]:
    """The trees below."""
    below = [tree.get(key) for key in ("expr", "param", "lhs", "rhs")] + tree.get("args", [])
    return [child for child in below if child]


def without_comparisons(tree: Tree) -> Tree:
    """The same without conditions: what is compared, and what must not be absent."""
    if tree["type"] == "binaryExpr" and tree["op"] in (*COMPARISONS, "unless"):
        left, right = tree["lhs"], tree["rhs"]
        return without_comparisons(right if left["type"] == "numberLiteral" else left)
    if tree["type"] == "call" and tree["func"]["name"].startswith("absent"):
        return without_comparisons(tree["args"][0])
    changed = dict(tree)
    for key in ("expr", "lhs", "rhs"):
        if tree.get(key):
            changed[key] = without_comparisons(tree[key])
    if "args" in tree:
        changed["args"] = [without_comparisons(argument) for argument in tree["args"]]
    return changed


def text(tree: Tree) -> str:
    """An expression that means the tree."""
    kind = tree["type"]
    if kind == "numberLiteral":
        return str(tree["val"])
    if kind == "stringLiteral":
        return json.dumps(tree["val"])
    if kind == "parenExpr":
        return f"({text(tree['expr'])})"
    if kind == "unaryExpr":
        return f"{tree['op']}{text(tree['expr'])}"
    if kind == "call":
        return f"{tree['func']['name']}({', '.join(map(text, tree['args']))})"
    if kind == "aggregation":
        given = [text(tree[key]) for key in ("param", "expr") if tree[key]]
        grouping = ""
        if tree["grouping"] or tree["without"]:
            word = "without" if tree["without"] else "by"
            grouping = f" {word} ({', '.join(tree['grouping'])}) "
        return f"{tree['op']}{grouping}({', '.join(given)})"
    if kind == "binaryExpr":
        return f"({text(tree['lhs'])} {tree['op']}{_matching(tree)} {text(tree['rhs'])})"
    if kind in ("vectorSelector", "matrixSelector"):
        return _selector(tree)
    raise ValueError(f"an expression with {kind}")


def _matching(tree: Tree) -> str:
    words = " bool" if tree["bool"] else ""
    matching = tree["matching"]
    if matching and (matching["on"] or matching["labels"]):
        word = "on" if matching["on"] else "ignoring"
        words += f" {word} ({', '.join(matching['labels'])})"
        side = {"many-to-one": "group_left", "one-to-many": "group_right"}.get(matching["card"])
        if side:
            words += f" {side} ({', '.join(matching['include'])})"
    return words


def _selector(tree: Tree) -> str:
    pairs = [
        f"{matcher['name']}{matcher['type']}{json.dumps(matcher['value'])}"
        for matcher in tree["matchers"]
        if matcher["name"] != "__name__"
    ]
    words = str(tree["name"]) + (f"{{{', '.join(pairs)}}}" if pairs else "")
    if tree["type"] == "matrixSelector":
        words += f"[{tree['range']}ms]"
    if tree["offset"]:
        words += f" offset {tree['offset']}ms"
    return words
