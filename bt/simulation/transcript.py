"""What happened in a schedule, line by line, for a person."""

from __future__ import annotations

from collections.abc import Sequence

from bt import events
from bt.events import Event, Instruction
from bt.versions import Version
from transports import messages
from transports.base import Frame
from transports.messages import Message

_LIMITS = messages.Limits(max_message_bytes=1 << 30)


class Transcript:
    """Lines: virtual seconds, who, what."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, now: float, who: str, what: str, *details: object) -> None:
        match details:
            case (str(to), frames):
                what = f"{what} on the way to {to}: {_of_frames(frames)}"
        self.lines.append(f"{now:11.6f}  {who:9} {what}")

    def handled(self, now: float, who: str, event: Event, out: Sequence[Instruction]) -> None:
        """An event, and below it what it led to."""
        self.note(now, who, _of_event(event))
        for instruction in out:
            self.lines.append(f"{'':22} > {_of_instruction(instruction)}")

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def _of_event(event: Event) -> str:
    match event:
        case events.Received(message):
            return f"gets {_of(message)} from {message.sender}"
        case events.PeerGone(peer, reason):
            return f"can't reach {peer}: {reason}"
        case events.Rejected(peer, reason):
            return f"can't accept what {peer} sent: {reason}"
        case events.Merged(peer, refused):
            return f"has merged {peer}" if refused is None else f"refuses {peer}: {refused}"
        case events.Persisted(digest):
            return f"has model {digest[:6]} on its disk"
        case _:
            return type(event).__name__.lower()


def _of_instruction(instruction: Instruction) -> str:
    match instruction:
        case events.Send(to, message):
            return f"{_of(message)} to {to}"
        case events.Serve(pull):
            return f"serve {_of(pull)} to {pull.sender}"
        case events.Publish(message):
            return f"{_of(message)} to everybody"
        case events.Merge(weights, announced):
            version = Version(*announced.version)
            return f"merge {_of(weights)} of {version} of {weights.sender}"
        case events.Train(update, merged):
            return f"train, update {update}, on a merge of {', '.join(merged) or 'nobody'}"
        case events.Aggregate(merged):
            return "aggregate " + ", ".join(f"{name} {v}" for name, v in merged.items())
        case events.Note(event, peer, reason):
            return f"note: {event} {peer}: {reason}"
        case _:
            return type(instruction).__name__.lower()


def _of(message: Message) -> str:
    match message:
        case messages.Ping():
            return "ping"
        case messages.Version(version=version, state=state, digest=digest, seen=seen):
            shown = f"version {Version(*version)} ({state}, model {(digest or 'none')[:6]}"
            return shown + (f"; knows your {Version(*seen)})" if seen else ")")
        case messages.Pull(digest=digest, offset=offset, length=length, encoding=encoding):
            coded = "" if encoding == messages.PLAIN else f" as {encoding}"
            return f"pull of {digest[:6]}[{offset}:{offset + length}]{coded}"
        case messages.Weights(digest=digest, offset=offset, data=data, size=size):
            return f"weights {digest[:6]}[{offset}:{offset + data.nbytes}] of {size} bytes"
        case messages.Ask() | messages.Report():
            return type(message).__name__.lower()


def _of_frames(frames: object) -> str:
    assert isinstance(frames, list | tuple)
    kept: list[Frame] = [*frames]
    try:
        return _of(messages.decode(kept, limits=_LIMITS))
    except messages.MessageError as exc:
        return f"nonsense ({exc})"
