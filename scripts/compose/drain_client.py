"""What scripts/compose-smoke --cluster runs while Shields restart, one after the other.

Nothing that was acknowledged may be lost in silence.

python drain_client.py URL TOKEN
"""

from __future__ import annotations

import asyncio
import sys

import arqon

#: For so long messages are published, while both Shields restart.
SECONDS = 60.0
PATIENCE = 30.0


async def hear(room: arqon.Room, heard: set[bytes], told: list[str]) -> None:
    """Notes what comes, and what the room tells of loss."""
    async for event in room.events():
        if isinstance(event, arqon.Gap):
            told.append(event.reason.value)
        else:
            heard.add(event.payload)


async def run(url: str, token: str) -> str:
    """Publishes with acknowledgement by one client, hears by another, and compares."""
    heard: set[bytes] = set()
    told: list[str] = []
    acknowledged: list[bytes] = []
    uncertain = 0
    async with (
        arqon.connect(url, token=token) as listener,
        arqon.connect(url, token=token) as speaker,
    ):
        hearing = asyncio.ensure_future(hear(await listener.join("drain"), heard, told))
        room = await speaker.join("drain")
        until = asyncio.get_running_loop().time() + SECONDS
        while asyncio.get_running_loop().time() < until:
            payload = str(len(acknowledged) + uncertain).encode()
            try:
                await room.publish(payload, ack=True)
                acknowledged.append(payload)
            except arqon.PublishUncertain:
                uncertain += 1
            await asyncio.sleep(0.05)
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not heard.issuperset(acknowledged) and not told:
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.1)
        hearing.cancel()
    missing = len(set(acknowledged) - heard)
    if len(acknowledged) < SECONDS:
        sys.exit(f"only {len(acknowledged)} messages were acknowledged in {SECONDS:g} s")
    # A client that is away while it changes Shields hears by GAP that something may be missing.
    if missing and not told:
        sys.exit(f"{missing} of {len(acknowledged)} acknowledged messages are missing, untold")
    return (
        f"{len(acknowledged)} messages acknowledged, {uncertain} uncertain; "
        f"{missing} missed with {len(told)} gaps told"
    )


if __name__ == "__main__":
    print(asyncio.run(run(sys.argv[1], sys.argv[2])))
