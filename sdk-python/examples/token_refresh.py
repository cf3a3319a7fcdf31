r"""A client that stays connected for days with tokens that live for minutes.

    python examples/token_refresh.py ws://127.0.0.1:8080/v1/socket lobby \
        --token-command "arq auth gen --user ada --ttl 1m"

The function below is called for the first connect, for each reconnect, and when the server says
that the token will expire; the session goes on with the new token, nothing is missed. A real
application would ask its identity provider here.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import arqon


class TokenCommand:
    """Runs a command that prints a token."""

    def __init__(self, command: str) -> None:
        self._command = command

    async def __call__(self) -> str:
        process = await asyncio.create_subprocess_shell(
            self._command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, problem = await process.communicate()
        if process.returncode != 0:
            # Raised through arqon as TokenSourceFailed, and tried again.
            raise RuntimeError(problem.decode().strip() or f"exit status {process.returncode}")
        return out.decode()


def tell(event: arqon.Event) -> None:
    """Prints what happens to the client."""
    if isinstance(event, arqon.TokenRefreshed):
        print(f"-- refreshed, good until {event.expires_at:%H:%M:%S} UTC", flush=True)
    elif isinstance(event, arqon.TokenRefreshFailed):
        print(f"-- could not refresh: {event.error}", flush=True)
    elif isinstance(event, arqon.StateChanged):
        print(f"-- {event.state.value}" + (f": {event.error}" if event.error else ""), flush=True)


async def run(url: str, room_name: str, command: str) -> None:
    async with arqon.connect(url, token=TokenCommand(command), on_event=tell) as bus:
        room = await bus.join(room_name)
        async for message in room:
            print(f"{message.sender.user}: {message.payload!r}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Stays connected with short-lived tokens.")
    parser.add_argument("url")
    parser.add_argument("room")
    parser.add_argument("--token-command", required=True, help="a command that prints a token")
    arguments = parser.parse_args()
    try:
        asyncio.run(run(arguments.url, arguments.room, arguments.token_command))
    except arqon.ArqonError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
