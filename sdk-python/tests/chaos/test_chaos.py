"""Messages flow while Shield and nats-server are killed again and again and tokens expire.

What is promised: nothing hangs; an acknowledged message reaches each subscriber, or a gap stands
where it is missing; order is kept and nothing comes twice; presence is right afterwards; no task,
socket, thread or file is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import random
import threading
from dataclasses import dataclass, field

import pytest
from leaks import none_left
from live_stack import Stack
from waiting import until

import arqon

ROOM = "chaos"
TOKEN_LIFE = "10s"
#: Messages that a publisher has under way at once, and seconds between two such batches.
BATCH = 10
PACE = 0.01
#: Messages that each publisher gets acknowledged between two kills.
PROGRESS = 100

Place = tuple[int, int]


@dataclass
class Publisher:
    """Publishes numbered messages, and knows the fate of each."""

    number: int
    acked: list[int] = field(default_factory=list)
    uncertain: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    stopping: bool = False

    async def run(self, room: arqon.Room) -> None:
        sequence = 0
        while not self.stopping:
            # Several at once, so that a kill finds some under way; they leave in their order.
            batch = range(sequence + 1, sequence + 1 + BATCH)
            await asyncio.gather(*(self._publish(room, number) for number in batch))
            self.acked.sort()
            sequence += BATCH
            await asyncio.sleep(PACE)

    async def _publish(self, room: arqon.Room, sequence: int) -> None:
        try:
            await room.publish(f"{self.number} {sequence}".encode(), ack=True)
            self.acked.append(sequence)
        except arqon.PublishUncertain:
            self.uncertain.append(sequence)
        except arqon.ArqonError as error:
            if not error.retryable:
                raise  # nothing else may happen to a publish
            self.refused.append(sequence)


@dataclass
class Subscriber:
    """Keeps all that it is told, in order."""

    told: list[Place | arqon.Gap] = field(default_factory=list)

    async def run(self, room: arqon.Room) -> None:
        async for event in room.events():
            if isinstance(event, arqon.Gap):
                self.told.append(event)
            else:
                publisher, sequence = event.text().split()
                self.told.append((int(publisher), int(sequence)))

    def last(self, publisher: int) -> int:
        """The newest message of a publisher."""
        for told in reversed(self.told):
            if not isinstance(told, arqon.Gap) and told[0] == publisher:
                return told[1]
        return 0

    def unflagged(self, publisher: Publisher) -> list[int]:
        """Acknowledged messages that are missing, with no gap where they should be."""
        heard = self.heard(publisher.number)
        came = {sequence for _, sequence in heard}
        gaps = [place for place, told in enumerate(self.told) if isinstance(told, arqon.Gap)]
        found = []
        for sequence in publisher.acked:
            if sequence in came:
                continue
            # It belongs behind the last that came before it, and ahead of the next.
            after = max((place for place, other in heard if other < sequence), default=-1)
            ahead = min((place for place, other in heard if other > sequence), default=None)
            end = len(self.told) if ahead is None else ahead
            if not any(after < place < end for place in gaps):
                found.append(sequence)
        return found

    def heard(self, publisher: int) -> list[Place]:
        """Place and sequence of all messages of a publisher."""
        return [
            (place, told[1])
            for place, told in enumerate(self.told)
            if not isinstance(told, arqon.Gap) and told[0] == publisher
        ]


def open_files() -> int:
    """Files and sockets of this process; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


@pytest.mark.timeout(1200)
async def test_chaos(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> None:
    shield_kills, nats_kills = map(int, str(request.config.getoption("--kills")).split(","))
    kills = ["shield"] * shield_kills + ["nats"] * nats_kills
    random.Random(5).shuffle(kills)
    changes = {"session": {"heartbeat_secs": 1}, "tokens": {"leeway_secs": 0, "grace_secs": 1}}
    with Stack(tmp_path, changes) as stack:
        files = open_files()
        async with none_left():
            await storm(stack, kills)
        assert not [each for each in threading.enumerate() if each.name.startswith("arqon")]
        if files:
            await until(lambda: open_files() <= files)


async def storm(stack: Stack, kills: list[str]) -> None:
    refreshed = 0

    def count(event: arqon.Event) -> None:
        nonlocal refreshed
        refreshed += isinstance(event, arqon.TokenRefreshed)

    async def client(user: str) -> arqon.Client:
        async def token() -> str:
            return await asyncio.to_thread(lambda: stack.token(user, ttl=TOKEN_LIFE))

        bus = await arqon.connect(
            stack.url,
            token=token,
            reconnect=arqon.Reconnect(base=0.1, cap=0.5),
            on_event=count,
        )
        clients.append(bus)
        return bus

    chance = random.Random(5)
    clients: list[arqon.Client] = []
    publishers = [Publisher(number) for number in range(3)]
    subscribers = [Subscriber() for _ in range(2)]
    users = set()
    tasks: list[asyncio.Task[None]] = []
    async with contextlib.AsyncExitStack() as cleanup:
        for number, subscriber in enumerate(subscribers):
            bus = await cleanup.enter_async_context(await client(f"sub{number}"))
            room = await bus.join(ROOM, meta={"role": "subscriber"})
            users.add(f"sub{number}")
            tasks.append(asyncio.ensure_future(subscriber.run(room)))
        watching = room.presence
        for publisher in publishers:
            bus = await cleanup.enter_async_context(await client(f"pub{publisher.number}"))
            room = await bus.join(ROOM, echo=False, presence="count")
            users.add(f"pub{publisher.number}")
            tasks.append(asyncio.ensure_future(publisher.run(room)))

        async def progress() -> None:
            """All publishers get messages through, to all subscribers."""
            goal = [len(publisher.acked) + PROGRESS for publisher in publishers]
            await until(
                lambda: (
                    not any(task.done() for task in tasks)
                    and all(len(p.acked) >= want for p, want in zip(publishers, goal, strict=True))
                )
            )
            last = [publisher.acked[-1] for publisher in publishers]
            await until(
                lambda: all(
                    subscriber.last(number) >= want
                    for subscriber in subscribers
                    for number, want in enumerate(last)
                )
            )

        await progress()
        for part in kills:
            await asyncio.to_thread(stack.kill, part)
            # Long enough for some to notice, and for all to try in vain. Sessions outlive NATS, so
            # that tokens expire while it is away.
            await asyncio.sleep(chance.uniform(0.0, 0.4 if part == "shield" else 8.0))
            await asyncio.to_thread(stack.start_shield if part == "shield" else stack.start_nats)
            await progress()
        # Whoever is connected now stays so, past the life of its token and past Shield's grace.
        before = [bus.reconnects for bus in clients]
        goal = refreshed + 2 * len(clients)
        await until(lambda: refreshed >= goal)
        await progress()
        assert [bus.reconnects for bus in clients] == before
        for publisher in publishers:
            publisher.stopping = True
        await asyncio.gather(*tasks[len(subscribers) :])
        last = [publisher.acked[-1] for publisher in publishers]
        await until(
            lambda: all(
                subscriber.last(number) >= want
                for subscriber in subscribers
                for number, want in enumerate(last)
            )
        )
        await until(lambda: set(watching.members) == users)
        assert all(bus.state is arqon.State.CONNECTED for bus in clients)
    for task in tasks[: len(subscribers)]:
        await task  # it ended with its room, without an error

    for subscriber in subscribers:
        for publisher in publishers:
            assert subscriber.unflagged(publisher) == []
            sequences = [sequence for _, sequence in subscriber.heard(publisher.number)]
            assert sequences == sorted(set(sequences))
            # Nothing came that was not published.
            known = {*publisher.acked, *publisher.uncertain, *publisher.refused}
            assert known.issuperset(sequences)
    assert all(bus.reconnects >= kills.count("shield") for bus in clients)
    acked = sum(len(publisher.acked) for publisher in publishers)
    lost = sum(
        len(publisher.acked) - len({*publisher.acked} & {s for _, s in sub.heard(publisher.number)})
        for publisher in publishers
        for sub in subscribers
    )
    print(
        f"{len(kills)} kills: {acked} acknowledged, "
        f"{sum(len(p.uncertain) for p in publishers)} uncertain, "
        f"{sum(len(p.refused) for p in publishers)} refused; "
        f"of {2 * acked} deliveries {lost} missing, all behind a gap; {refreshed} refreshes"
    )
    assert refreshed > 0


def test_a_missing_message_is_found() -> None:
    publisher = Publisher(0, acked=[1, 2, 3, 4, 6])
    gap = arqon.Gap(ROOM, arqon.GapReason.RECONNECTED, None)
    assert Subscriber([(0, 1), (0, 2), (0, 3), (0, 4), (0, 6)]).unflagged(publisher) == []
    assert Subscriber([(0, 1), (0, 4), (0, 6)]).unflagged(publisher) == [2, 3]
    assert Subscriber([(0, 1), gap, (0, 4), (0, 6)]).unflagged(publisher) == []
    assert Subscriber([gap, (0, 1), (1, 1), (0, 4), (0, 6)]).unflagged(publisher) == [2, 3]
    assert Subscriber([(0, 1), (0, 2), (0, 3), (0, 4)]).unflagged(publisher) == [6]
    assert Subscriber([(0, 1), (0, 2), (0, 3), (0, 4), gap]).unflagged(publisher) == []
