"""One measurement of one client: ``python measure.py PEER WHAT URL [TOKEN]`` prints a JSON object.

``receive`` starts a second process, which floods the server; a window of unread messages keeps
the server's queues from overflowing, so that the client under test sets the pace.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

from peers import PEERS, Flood, Peer

#: Messages that may be under way to the receiver.
WINDOW = 2000


def cpu() -> float:
    """Seconds of processor that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident() -> int:
    """Resident memory of this process, bytes."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def rate(count: int, seconds: float, busy: float) -> dict[str, float]:
    """Messages a second, by the clock and by the processor."""
    return {"per_second": count / seconds, "per_cpu_second": count / busy, "cpu": busy / seconds}


async def receive(it: argparse.Namespace, peer: Peer) -> dict[str, float]:
    """Messages a second that one client reads."""
    done = asyncio.get_running_loop().create_future()
    flood = start_flood(it)
    assert flood.stdin is not None
    pipe = flood.stdin.fileno()
    total = it.count
    warm = total // 5
    asked = heard = 0
    started = busy = 0.0

    def more() -> None:
        # One byte asks for one batch.
        nonlocal asked
        batches = (min(total, heard + WINDOW) - asked) // Flood.BATCH
        if batches > 0:
            asked += batches * Flood.BATCH
            os.write(pipe, b"x" * batches)

    def on_message(payload: bytes) -> None:
        nonlocal heard, started, busy
        heard += 1
        if heard == warm:
            started, busy = time.perf_counter(), cpu()
        elif heard == total:
            done.set_result((time.perf_counter() - started, cpu() - busy))
        if heard % (WINDOW // 4) == 0:
            more()

    await peer.open(on_message)
    more()
    try:
        seconds, used = await asyncio.wait_for(done, 120)
    finally:
        flood.stdin.close()
        flood.kill()
        flood.wait()
    return rate(total - warm, seconds, used)


def start_flood(it: argparse.Namespace) -> subprocess.Popen[bytes]:
    """The second process."""
    words = (it.peer, "flood", it.flood_url, it.token, "--size", str(it.size))
    command = [*it.pin_flood.split(), sys.executable, __file__, *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


async def send(it: argparse.Namespace, peer: Peer) -> dict[str, float]:
    """Messages a second that one client publishes, until the server has the last."""
    payload = os.urandom(it.size)
    await peer.open(None)
    for _ in range(it.count // 5):
        await peer.publish(payload)
    await peer.settle()
    started, busy = time.perf_counter(), cpu()
    for _ in range(it.count):
        await peer.publish(payload)
    await peer.settle()
    return rate(it.count, time.perf_counter() - started, cpu() - busy)


async def confirmed(it: argparse.Namespace, peer: Peer) -> dict[str, float]:
    """Messages a second, each published after the one before it was confirmed."""
    payload = os.urandom(it.size)
    await peer.open(None)
    for _ in range(it.count // 5):
        await peer.confirmed(payload)
    started, busy = time.perf_counter(), cpu()
    for _ in range(it.count):
        await peer.confirmed(payload)
    return rate(it.count, time.perf_counter() - started, cpu() - busy)


async def latency(it: argparse.Namespace, peer: Peer) -> dict[str, float]:
    """Milliseconds from publishing to hearing it, both in this process, 500 a second."""
    taken: list[float] = []
    ended = asyncio.Event()

    def on_message(payload: bytes) -> None:
        taken.append((time.perf_counter_ns() - int.from_bytes(payload[:8], "big")) / 1e6)
        if len(taken) >= it.count:
            ended.set()

    await peer.open(on_message)
    rest = bytes(it.size - 8)
    due = time.perf_counter()
    for _ in range(it.count):
        await peer.publish(time.perf_counter_ns().to_bytes(8, "big") + rest)
        due += 1 / 500
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    await asyncio.wait_for(ended.wait(), 30)
    taken = sorted(taken[it.count // 5 :])
    return {"p50_ms": taken[len(taken) // 2], "p99_ms": taken[len(taken) * 99 // 100]}


async def memory(it: argparse.Namespace, first: Peer) -> dict[str, float]:
    """Resident bytes of one more idle connection that is in the room."""
    opened: list[Peer] = []

    async def open_many(count: int) -> None:
        for _ in range(count):
            peer = PEERS[it.peer](it.url, it.token)
            await peer.open(_ignore)
            opened.append(peer)

    await first.open(_ignore)
    await open_many(50)
    gc.collect()
    before = resident()
    await open_many(it.count)
    gc.collect()
    grown = resident() - before
    await asyncio.gather(*(peer.close() for peer in opened))
    return {"kib": grown / it.count / 1024}


def _ignore(payload: bytes) -> None:
    pass


def flood(it: argparse.Namespace) -> None:
    """The second process: each byte of standard input is a batch."""
    source = Flood(it.peer, it.url, it.token, it.size)
    while asked := os.read(0, 4096):
        source.send(len(asked))


def main() -> None:
    """Runs what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument(
        "what", choices=["receive", "send", "confirmed", "latency", "memory", "flood"]
    )
    parser.add_argument("url")
    parser.add_argument("token", nargs="?", default="")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--flood-url", default="")
    parser.add_argument("--pin-flood", default="")
    parser.add_argument("--profile", default="", help="write a profile of cProfile here")
    it = parser.parse_args()
    it.flood_url = it.flood_url or it.url
    if it.what == "flood":
        flood(it)
        return
    measurement = {
        "receive": receive,
        "send": send,
        "confirmed": confirmed,
        "latency": latency,
        "memory": memory,
    }[it.what]

    async def run() -> dict[str, float]:
        peer = PEERS[it.peer](it.url, it.token)
        try:
            return await measurement(it, peer)
        finally:
            await peer.close()

    profile = cProfile.Profile() if it.profile else None
    if profile is not None:
        profile.enable()
    figures = asyncio.run(run())
    if profile is not None:
        profile.disable()
        profile.dump_stats(it.profile)
    print(json.dumps({"peer": it.peer, "what": it.what, "size": it.size, **figures}))


if __name__ == "__main__":
    main()
