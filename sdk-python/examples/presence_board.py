r"""A board of who is in a room, drawn anew whenever somebody comes, changes or leaves.

    python examples/presence_board.py ws://127.0.0.1:8080/v1/socket lobby \
        --token "$(arq auth gen --user warden)"

The board itself is not seen by the others: it joins with ``presence="watch"``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import arqon


def draw(room: arqon.Room) -> str:
    """The board as text, one line for each user."""
    presence = room.presence
    if presence.truncated:
        return f"== {room.name}: {presence.count} users, too many to list"
    lines = [f"== {room.name}: {len(presence.members)} users"]
    for user, member in sorted(presence.members.items()):
        meta = ", ".join(f"{key}={value}" for key, value in sorted(member.meta.items()))
        since = min(session.joined_at for session in member.sessions).strftime("%H:%M:%S")
        lines.append(f"   {user:<20} since {since} UTC  {meta}".rstrip())
    return "\n".join(lines)


async def board(url: str, room_name: str, token: str) -> None:
    async with arqon.connect(url, token=token) as bus:
        room = await bus.join(room_name, presence="watch")
        print(draw(room), flush=True)
        async for _ in room.presence:
            print(draw(room), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="A board of who is in a room.")
    parser.add_argument("url")
    parser.add_argument("room")
    parser.add_argument("--token", required=True)
    arguments = parser.parse_args()
    try:
        asyncio.run(board(arguments.url, arguments.room, arguments.token))
    except arqon.ArqonError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
