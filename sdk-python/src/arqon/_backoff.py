"""What to do after a connection failed or was lost. Pure."""

from __future__ import annotations

import random

from ._types import Reconnect
from .errors import (
    ArqonError,
    AuthError,
    ClosedByServer,
    ReconnectGivenUp,
    UrlInvalid,
)

#: Close codes from here on tell the client to stay away.
STAY_AWAY = 4500
#: So many refusals in a row that will not change by themselves end a client that was connected
#: before: a deployment or a change of certificates passes, a wrong address does not.
MAX_REFUSALS = 5


class Backoff:
    """How long to wait before each try, and when to give up.

    Args:
        policy: the application's wishes.
        renewable: whether another token can be had.
        chance: gives a number from 0 to 1.
    """

    def __init__(
        self, policy: Reconnect, *, renewable: bool, chance: random.Random | None = None
    ) -> None:
        self._policy = policy
        self._renewable = renewable
        self._random = chance or random.Random()
        self._failures = 0
        self._refusals = 0

    def reset(self) -> None:
        """A session was opened and lived."""
        self._failures = 0
        self._refusals = 0

    def after(self, error: ArqonError, without_session: float) -> float:
        """Seconds to wait before the next try.

        Args:
            error: why there is no session.
            without_session: seconds since there was one.

        Raises:
            ArqonError: no further try makes sense: the error itself, or
                :class:`ReconnectGivenUp` with it as cause.
        """
        if isinstance(error, ClosedByServer):
            if error.close_code >= STAY_AWAY:
                raise error
        elif isinstance(error, UrlInvalid) or (
            isinstance(error, AuthError) and error.retry == "new_token" and not self._renewable
        ):
            raise error
        elif not error.retryable:
            self._refusals += 1
            if self._refusals >= MAX_REFUSALS:
                raise ReconnectGivenUp(
                    f"{self._refusals} refusals in a row; the last: {error}"
                ) from error
        else:
            self._refusals = 0
        bound = min(self._policy.cap, self._policy.base * 2.0 ** min(self._failures, 32))
        self._failures += 1
        wait = (error.retry_after or 0.0) + self._random.uniform(0.0, bound)
        limit = self._policy.give_up_after
        if limit is not None and without_session + wait > limit:
            raise ReconnectGivenUp(
                f"no session within {limit:g} s; the last failure: {error}"
            ) from error
        return wait
