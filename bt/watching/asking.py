"""The peers of a federation, asked over the network: one small question each, once a look."""

from __future__ import annotations

from contextlib import ExitStack

from bt.outside import NoAnswer, Outside, ask
from transports import messages
from transports.messages import Ask, Report


class Asking:
    """Keeps its connections from one look to the next. Close it."""

    simulated = False

    def __init__(self, outside: Outside, timeout_s: float) -> None:
        self.label = f"asked as {outside.name}"
        self.closed = outside.roster is not None
        self._outside = outside
        self._timeout_s = timeout_s
        self._open = ExitStack()
        self._transport = self._open.enter_context(outside.connected())

    def look(self, now: float) -> dict[str, Report | NoAnswer]:
        """What each answers within the time."""
        question: messages.Small = Ask(self._outside.name)
        peers = self._outside.peers
        return ask(self._outside, self._transport, peers, question, Report, self._timeout_s)

    def close(self) -> None:
        """Hang up."""
        self._open.close()
