r"""How long a message takes from publishing it to hearing it again, through NATS and back.

    python examples/latency_meter.py ws://127.0.0.1:8080/v1/socket meter --count 200 --rate 50 \
        --token "$(arq auth gen)"

Both ends are this process, so one clock measures, and the whole way there and back is in it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import struct
import sys
import time

import arqon

CLOCK = struct.Struct("!q")
#: Seconds for the last message to come back.
PATIENCE = 30.0


async def hear(room: arqon.Room, count: int) -> list[float]:
    """Milliseconds of each message, as they come back."""
    taken = []
    async for message in room:
        (sent,) = CLOCK.unpack(message.payload)
        taken.append((time.perf_counter_ns() - sent) / 1e6)
        if len(taken) == count:
            break
    return taken


async def measure(url: str, room_name: str, token: str, count: int, rate: float) -> list[float]:
    async with arqon.connect(url, token=token) as bus:
        room = await bus.join(room_name)
        hearing = asyncio.ensure_future(hear(room, count))
        for _ in range(count):
            await room.publish(CLOCK.pack(time.perf_counter_ns()))
            await asyncio.sleep(1 / rate)
        return await asyncio.wait_for(hearing, PATIENCE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency of messages, in milliseconds.")
    parser.add_argument("url")
    parser.add_argument("room")
    parser.add_argument("--token", required=True)
    parser.add_argument("--count", type=int, default=200, help="messages [default: 200]")
    parser.add_argument("--rate", type=float, default=50, help="messages a second [default: 50]")
    it = parser.parse_args()
    if it.count < 2 or it.rate <= 0:
        parser.error("--count is at least 2, and --rate above 0")
    try:
        taken = asyncio.run(measure(it.url, it.room, it.token, it.count, it.rate))
    except arqon.ArqonError as error:
        sys.exit(f"error: {error}")
    except asyncio.TimeoutError:
        sys.exit(f"error: not all messages came back in {PATIENCE:g} s; is the rate too high?")
    except KeyboardInterrupt:
        sys.exit(130)
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    print(f"{len(taken)} messages: p50 {cuts[49]:.2f} ms, p95 {cuts[94]:.2f} ms, ", end="")
    print(f"p99 {cuts[98]:.2f} ms, max {max(taken):.2f} ms")


if __name__ == "__main__":
    main()
