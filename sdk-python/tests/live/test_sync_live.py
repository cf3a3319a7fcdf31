"""``arqon.sync`` against a real ArqonBus."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import uuid

import pytest
from children import surroundings
from live_stack import Stack

import arqon
import arqon.sync


def fresh_room() -> str:
    """A room that no other test is in."""
    return f"sync.{uuid.uuid4().hex}"


def threads() -> set[str]:
    """Threads of the SDK."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("arqon")}


def test_messages_and_presence(stack: Stack) -> None:
    name = fresh_room()
    with arqon.sync.connect(stack.url, token=stack.token("ann")) as ann:
        room = ann.join(name, meta={"name": "Ann"})
        with arqon.sync.connect(stack.url, token=lambda: stack.token("bob")) as bob:
            other = bob.join(name, echo=False, meta={"name": "Bob"})
            assert other.publish_json({"a": 1}, ack=True).twist_id
            assert room.get(timeout=10).json() == {"a": 1}
            for number in range(100):
                other.publish(str(number).encode())
            got = []
            for message in room:
                got.append(message.text())
                if len(got) == 100:
                    break
            assert got == [str(number) for number in range(100)]
            assert sorted(member.user for member in room.presence.get()) == ["ann", "bob"]
            assert room.presence.get_count() == 2
            seen = {}
            for change in room.presence:
                seen[change.user] = change.member.meta
                if len(seen) == 2:
                    break
            assert seen == {"ann": {"name": "Ann"}, "bob": {"name": "Bob"}}
            other.presence.set({"name": "Robert"})
            while room.presence.members["bob"].meta != {"name": "Robert"}:
                time.sleep(0.02)
            other.leave()
            with pytest.raises(arqon.NotJoined):
                other.get(timeout=1)
        assert bob.state is arqon.State.CLOSED
        assert ann.ping() > 0
    assert threads() == set()


def test_a_timeout_loses_nothing(stack: Stack) -> None:
    name = fresh_room()
    with (
        arqon.sync.connect(stack.url, token=stack.token("ann")) as ann,
        arqon.sync.connect(stack.url, token=stack.token("bob")) as bob,
    ):
        room, other = ann.join(name), bob.join(name, echo=False)
        sent = 200

        def speak() -> None:
            for number in range(sent):
                other.publish(str(number).encode())
                time.sleep(0.002)

        speaker = threading.Thread(target=speak)
        speaker.start()
        got: list[str] = []
        while len(got) < sent:
            try:
                got.append(room.get(timeout=0.002).text())
            except TimeoutError:
                assert len(got) < sent
        speaker.join()
        assert got == [str(number) for number in range(sent)]


def test_many_threads_share_a_client(stack: Stack) -> None:
    name = fresh_room()
    with arqon.sync.connect(stack.url, token=stack.token("ann")) as ann:
        room = ann.join(name, queue_messages=1000)
        workers = [
            threading.Thread(target=lambda: [room.publish(b"x", ack=True) for _ in range(20)])
            for _ in range(10)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len([room.get(timeout=10) for _ in range(200)]) == 200


async def test_it_works_beside_a_running_loop(stack: Stack) -> None:
    """As in a notebook."""
    assert asyncio.get_running_loop().is_running()
    with arqon.sync.connect(stack.url, token=stack.token("ann")) as ann:
        room = ann.join(fresh_room())
        room.publish(b"x")
        assert room.get(timeout=10).payload == b"x"


def test_errors_are_those_of_arqon(stack: Stack) -> None:
    with pytest.raises(arqon.TokenExpired):
        arqon.sync.connect(stack.url, token=stack.token(ttl="-5m"))
    with pytest.raises(arqon.UrlInvalid):
        arqon.sync.connect("http://127.0.0.1", token="x")
    assert threads() == set()
    client = arqon.sync.connect(stack.url, token=stack.token())
    room = client.join(fresh_room())
    client.close()
    client.close()
    for call in (lambda: room.get(timeout=1), lambda: room.publish(b"x"), client.ping):
        with pytest.raises(arqon.ClientClosed):
            call()
    assert list(room) == []
    assert room.presence.members == {}


def test_a_handler_may_use_the_client_and_close_it(stack: Stack) -> None:
    pings: list[float] = []
    client: list[arqon.sync.Client] = []

    def handler(event: arqon.Event) -> None:
        if isinstance(event, arqon.TokenRefreshed):
            pings.append(client[0].ping())
            client[0].close()

    bus = arqon.sync.connect(stack.url, token=stack.token(), on_event=handler)
    client.append(bus)
    room = bus.join(fresh_room())
    bus.refresh()
    # The handler closes: this ends, and without an error.
    assert list(room) == []
    bus.wait_closed(timeout=10)
    bus.close()
    assert len(pings) == 1
    assert pings[0] > 0


def test_an_async_handler_runs_in_the_clients_loop(stack: Stack) -> None:
    states: list[tuple[arqon.State, str]] = []

    async def handler(event: arqon.Event) -> None:
        await asyncio.sleep(0)
        if isinstance(event, arqon.StateChanged):
            states.append((event.state, threading.current_thread().name))

    with arqon.sync.connect(stack.url, token=stack.token(), on_event=handler):
        pass
    assert states == [
        (arqon.State.CONNECTED, "arqon-sync"),
        (arqon.State.CLOSED, "arqon-sync"),
    ]
    assert threads() == set()


async def test_what_runs_in_the_clients_loop_cannot_block_it(stack: Stack) -> None:
    problems: list[BaseException] = []
    client: list[arqon.sync.Client] = []

    async def handler(event: arqon.Event) -> None:
        if isinstance(event, arqon.TokenRefreshed):
            try:
                client[0].ping()
            except RuntimeError as error:
                problems.append(error)

    with arqon.sync.connect(stack.url, token=stack.token(), on_event=handler) as bus:
        client.append(bus)
        bus.refresh()
    assert "called in the client's own loop" in str(problems[0])


def test_whoever_waits_in_another_thread_is_released(stack: Stack) -> None:
    client = arqon.sync.connect(stack.url, token=stack.token())
    room = client.join(fresh_room())
    problems: list[BaseException] = []

    def wait() -> None:
        try:
            room.get()
        except arqon.ClientClosed as error:
            problems.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.2)
    client.close()
    waiter.join(10)
    assert not waiter.is_alive()
    assert len(problems) == 1


def test_a_script_that_forgets_to_close_ends(stack: Stack) -> None:
    script = (
        "import sys, arqon.sync\n"
        "bus = arqon.sync.connect(sys.argv[1], token=sys.argv[2])\n"
        "room = bus.join('forgotten')\n"
        "room.publish(b'x', ack=True)\n"
        "print(room.get(timeout=10).text())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, stack.url, stack.token()],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=surroundings(),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n", "")
