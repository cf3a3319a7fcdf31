"""A chat in the terminal: what you type goes to the room, what others say is printed.

python examples/chat.py ws://127.0.0.1:8080/v1/socket lobby --token "$(arq auth gen --user ada)"
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading

import arqon


async def listen(room: arqon.Room) -> None:
    """Prints what is said, and where something may be missing."""
    async for event in room.events():
        if isinstance(event, arqon.Gap):
            print(f"-- some messages may be missing ({event.reason.value})", flush=True)
        else:
            # Others may publish anything: what is no text, or would move the cursor.
            text = event.payload.decode(errors="replace")
            shown = "".join(each if each.isprintable() else "?" for each in text)
            print(f"{event.sender.user}: {shown}", flush=True)


async def speak(room: arqon.Room) -> None:
    """Publishes each line that is typed, until the end of input."""
    loop = asyncio.get_running_loop()
    # One line ahead; the keyboard, or a file in its place, waits for the network.
    lines: asyncio.Queue[str] = asyncio.Queue(1)

    def type_away() -> None:
        # Without a buffer: its lock, held by a thread that reads, would crash Python's exit.
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as keyboard:
            line = b"?"
            while line:
                line = keyboard.readline()
                put = lines.put(line.decode(errors="replace"))
                asyncio.run_coroutine_threadsafe(put, loop).result()

    # A thread waits for the keyboard; a daemon, so that Ctrl-C does not.
    threading.Thread(target=type_away, daemon=True).start()
    while line := await lines.get():
        try:
            await room.publish_text(line.rstrip("\n"), ack=True)
        except arqon.PublishUncertain:
            print("-- that line may or may not have been heard", flush=True)
        except arqon.ArqonError as error:
            print(f"-- not sent: {error}", flush=True)


async def chat(url: str, room_name: str, token: str) -> None:
    async with arqon.connect(url, token=token) as bus:
        room = await bus.join(room_name, echo=False, presence="full")
        there = ", ".join(member.user for member in await room.presence.get())
        print(f"-- in {room.name} with {there or 'nobody'}; end with Ctrl-D", flush=True)
        both = [asyncio.ensure_future(listen(room)), asyncio.ensure_future(speak(room))]
        # The end of the input ends it, and so does an error that closes the client.
        done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for each in both:
            each.cancel()
        for each in done:
            each.result()


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat in the terminal.")
    parser.add_argument("url")
    parser.add_argument("room")
    parser.add_argument("--token", required=True)
    arguments = parser.parse_args()
    try:
        asyncio.run(chat(arguments.url, arguments.room, arguments.token))
    except arqon.ArqonError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
