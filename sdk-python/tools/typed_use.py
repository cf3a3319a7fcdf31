"""What a type checker makes of the installed package; `scripts/sdk package` runs mypy on this.

Never run: it fails to check as soon as something public is not typed, or is `Any`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from typing_extensions import assert_type

import arqon


async def use(url: str, token: str) -> None:
    async with arqon.connect(url, token=token) as bus:
        assert_type(bus, arqon.Client)
        room = await bus.join("lobby", meta={"name": "Ada"})
        assert_type(room, arqon.Room)
        assert_type(await room.publish(b"", ack=True), arqon.Receipt)
        async for message in room:
            assert_type(message, arqon.Message)
            assert_type(message.payload, bytes)
            assert_type(message.json(), object)
            assert_type(message.headers, Mapping[str, str])
            assert_type(message.traceparent, str | None)
            assert_type(message.timestamp, datetime)
        async for change in room.presence:
            assert_type(change.user, str)
        assert_type(room.presence.members, Mapping[str, arqon.Member])
        try:
            await bus.refresh()
        except arqon.ArqonError as error:
            assert_type(error.code, int)
            assert_type(error.retryable, bool)
            assert_type(error.retry_after, float | None)
