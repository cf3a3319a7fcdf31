"""The medians of many runs of measure.py as one table: ``python table.py RESULTS.jsonl``."""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
from collections import defaultdict

#: What is shown of each measurement: its key, its title, its format, and whether less is better.
SHOWN = {
    "receive": [
        ("per_second", "received/s, {size} B", "{:,.0f}", False),
        ("cpu", "processor of it", "{:.0%}", True),
    ],
    "send": [("per_second", "sent/s, {size} B", "{:,.0f}", False)],
    "confirmed": [("per_second", "confirmed/s, one by one, {size} B", "{:,.0f}", False)],
    "latency": [
        ("p50_ms", "publish to hear, p50, ms", "{:.3f}", True),
        ("p99_ms", "publish to hear, p99, ms", "{:.3f}", True),
    ],
    "memory": [("kib", "KiB of one more connection", "{:.1f}", True)],
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--json", action="store_true")
    it = parser.parse_args()
    runs: dict[tuple[str, int], dict[str, list[dict[str, float]]]] = {}
    for line in it.results.read_text().splitlines():
        run = json.loads(line)
        of_one = runs.setdefault((run["what"], run["size"]), defaultdict(list))
        of_one[run["peer"]].append(run)
    peers = list(dict.fromkeys(peer for of in runs.values() for peer in of))
    rows = []
    for (what, size), of in runs.items():
        for key, title, form, _ in SHOWN[what]:
            medians = {
                peer: statistics.median(run[key] for run in of[peer]) for peer in peers if of[peer]
            }
            rows.append((title.format(size=size), form, medians))
    if it.json:
        print(json.dumps({title: medians for title, _, medians in rows}, indent=2))
        return
    print("| | " + " | ".join(peers) + " |")
    print("|---|" + "---|" * len(peers))
    for title, form, medians in rows:
        ours = medians.get("arqon")
        cells = []
        for peer in peers:
            value = medians.get(peer)
            if value is None:
                cells.append("-")
            elif peer == "arqon" or not ours:
                cells.append(form.format(value))
            else:
                cells.append(f"{form.format(value)} ({value / ours:.2f} x)")
        print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
