"""The conformance suite every transport passes.

A check is a program that every member of a group runs at the same time, each with its own
transport: in a thread, a process or an MPI rank. So one suite serves queues, sockets and mpirun.

    check_group([transport_a, transport_b, transport_c])  # members in threads of this process
    check_transport(transport)  # this member's part; the others run theirs
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from transports.base import Frame, PeerGone, Received, Transport, TransportError

PATIENCE_S = 20.0  # for what has to happen; nothing waits this long when all is well
MODEL_BYTES = 14_000_000


class NotConforming(AssertionError):
    """The transport broke a promise; the message says which."""


class Member:
    """A transport with a mailbox per subject, so that members may be in different checks."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.others = list(transport.peers)  # that are still there
        self.subject = b""  # the check being run
        self.mailboxes: dict[bytes, deque[Received]] = {}

    def send(self, to: str, frames: Sequence[Frame], subject: str = "") -> None:
        """Send, waiting for `to` to turn up."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.transport.send(to, [self.subject + subject.encode(), *frames])
            except PeerGone:
                expect(time.monotonic() < deadline, f"{to} never became reachable")
                self.collect(0.01)

    def publish(self, frames: Sequence[Frame]) -> None:
        self.transport.publish([self.subject, *frames])

    def collect(self, timeout_s: float) -> bool:
        """Put the next message, if there is one, into its mailbox."""
        received = self.transport.recv(timeout_s)
        if received is None:
            return False
        subject, frames = bytes(received.frames[0]), received.frames[1:]
        self.mailboxes.setdefault(subject, deque()).append(Received(received.sender, frames))
        return True

    def take(self, subject: str = "", timeout_s: float = PATIENCE_S) -> Received | None:
        """The next message of this check."""
        deadline = time.monotonic() + timeout_s
        mailbox = self.mailboxes.setdefault(self.subject + subject.encode(), deque())
        while not mailbox and (left := deadline - time.monotonic()) > 0:
            self.collect(left)
        return mailbox.popleft() if mailbox else None

    def take_some(self, subject: str = "") -> Received:
        received = self.take(subject)
        if received is None:
            raise NotConforming(f"{self.transport.me} waited in vain for {subject or 'a message'}")
        return received

    def meet(self, subject: str) -> None:
        """Wait until every member has come here."""
        for name in self.others:
            self.send(name, [], subject)
        missing = set(self.others)
        while missing:
            missing.discard(self.take_some(subject).sender)


Check = Callable[[Member], None]


def expect(condition: bool, promise: str) -> None:
    if not condition:
        raise NotConforming(promise)


def names_and_peers(member: Member) -> None:
    """Every member knows the others, sorted, and not itself."""
    peers = member.transport.peers
    expect(list(peers) == sorted(set(peers)), "peers are sorted and differ")
    expect(member.transport.me not in peers, "nobody is a peer of itself")
    expect(len(peers) >= 1, "a group has at least two members")


def whole_and_in_order(member: Member) -> None:
    """200 numbered messages to everyone arrive whole, in order, from the right sender."""
    count = 200
    for number in range(count):
        for name in member.others:
            member.send(name, [b"%d" % number, member.transport.me.encode(), b"x" * number])
    following = dict.fromkeys(member.others, 0)
    while min(following.values()) < count:
        received = member.take_some()
        number = following[received.sender]
        expected = [b"%d" % number, received.sender.encode(), b"x" * number]
        expect(
            [bytes(f) for f in received.frames] == expected, "messages arrive whole and in order"
        )
        following[received.sender] += 1


def frames_stay_as_they_are(member: Member) -> None:
    """Number, sizes and bytes of frames survive, empty ones and other buffer types too."""
    messages: list[list[Frame]] = [
        [],
        [b""],
        [b"", b"a", b""],
        [bytearray(b"bytes"), memoryview(b"view")[1:], bytes(8)],
        [bytes([i]) * (997 * i) for i in range(40)],
        [b"head", os.urandom(3_000_000), b"tail"],
    ]
    for name in member.others:
        for message in messages:
            member.send(name, [member.transport.me.encode(), *message])
    random_frame = memoryview(b"")
    for _ in range(len(messages) * len(member.others)):
        received = member.take_some()
        frames = received.frames[1:]
        expect(bytes(received.frames[0]) == received.sender.encode(), "the sender's name is right")
        expect(
            all(isinstance(f, memoryview) and f.format == "B" and f.ndim == 1 for f in frames),
            "frames are flat memoryviews of bytes",
        )
        match = [
            m for m in messages if [memoryview(f).nbytes for f in m] == [len(f) for f in frames]
        ]
        expect(len(match) == 1, "the number and sizes of frames stay")
        if len(frames) == 3 and len(frames[1]) == 3_000_000:
            random_frame = frames[1]  # the sender's own bytes, not ours
        else:
            same = all(
                bytes(f) == memoryview(m).tobytes() for f, m in zip(frames, match[0], strict=True)
            )
            expect(same, "the bytes of frames stay")
    expect(len(random_frame) == 3_000_000, "a big frame between small ones arrives")


def big_both_ways(member: Member) -> None:
    """Everyone sends everyone a model at once, before anyone receives, and nobody gets stuck."""

    def model_of(name: str) -> bytes:
        return (name.encode() * (MODEL_BYTES // len(name) + 1))[:MODEL_BYTES]

    body = model_of(member.transport.me)
    for name in member.others:
        member.send(name, [b"head", body])
    for _ in member.others:
        received = member.take_some()
        head, theirs = received.frames
        expect(bytes(head) == b"head" and len(theirs) == MODEL_BYTES, "a model arrives whole")
        expect(
            bytes(theirs) == model_of(received.sender), "a model's bytes stay, its sender is right"
        )


def publishing_reaches_all(member: Member) -> None:
    """What one publishes all others get. Early announcements may be lost, so: until heard."""
    everyone = set(member.others)
    heard: set[str] = set()
    heard_me: set[str] = set()
    deadline = time.monotonic() + PATIENCE_S
    while heard != everyone or heard_me != everyone:
        expect(time.monotonic() < deadline, "announcements reach everyone")
        if heard_me != everyone:
            member.publish([b"news of", member.transport.me.encode()])
        received = member.take(timeout_s=0.02)
        while received is not None:
            if received.sender not in heard:
                expect(
                    [bytes(f) for f in received.frames] == [b"news of", received.sender.encode()],
                    "an announcement arrives whole and from its publisher",
                )
                heard.add(received.sender)
                member.send(received.sender, [], "heard")
            received = member.take(timeout_s=0)
        while (answer := member.take("heard", timeout_s=0)) is not None:
            heard_me.add(answer.sender)


def waiting_in_vain(member: Member) -> None:
    """A receive with nothing to come takes about its timeout; one of 0 returns at once."""
    for timeout_s, at_most_s in ((0.0, 0.5), (0.2, 2.0)):
        while True:  # a neighbour's late announcement may still come in
            began, worked_s = time.monotonic(), time.thread_time()
            disturbed = member.collect(timeout_s)
            took_s, worked_s = time.monotonic() - began, time.thread_time() - worked_s
            if not disturbed:
                break
        expect(took_s >= timeout_s * 0.9, f"recv({timeout_s}) waited only {took_s:.3f} s")
        expect(took_s <= at_most_s, f"recv({timeout_s}) took {took_s:.3f} s")
        if timeout_s:
            expect(worked_s <= timeout_s / 2, "waiting leaves the processor to others")


def unknown_peers(member: Member) -> None:
    """Sending to somebody who is no peer, oneself included, raises PeerGone."""
    for name in ("nobody", member.transport.me):
        try:
            member.transport.send(name, [b"x"])
        except PeerGone as exc:
            expect(exc.peer == name, "PeerGone names the peer")
        else:
            raise NotConforming(f"sending to {name} raises PeerGone")


def a_member_leaves(member: Member) -> None:
    """The last member closes; the others get PeerGone or silence, and go on among themselves."""
    leaver = max(member.transport.me, *member.others)
    if member.transport.me == leaver:
        member.others = []  # and closing is what comes next
        return
    member.others.remove(leaver)
    deadline = time.monotonic() + PATIENCE_S
    with suppress(PeerGone):
        while time.monotonic() < deadline:
            began = time.monotonic()
            member.transport.send(leaver, [b"are you there?"])
            expect(time.monotonic() - began < 1.0, "sending to a dead peer does not block")
            member.collect(0.01)
        raise NotConforming("a closed peer ends up as PeerGone")
    member.publish([b"nobody waits for the dead"])


CHECKS: tuple[Check, ...] = (
    names_and_peers,
    whole_and_in_order,
    frames_stay_as_they_are,
    big_both_ways,
    publishing_reaches_all,
    waiting_in_vain,
    unknown_peers,
    a_member_leaves,
)


def check_transport(transport: Transport, checks: Sequence[Check] = CHECKS) -> None:
    """Run this member's part of the checks, then close. Raises NotConforming.

    All members have to run the same checks at the same time.
    """
    try:
        member = Member(transport)
        for check in checks:
            member.subject = check.__name__.encode()
            try:
                check(member)
                member.meet("the end")
            except NotConforming as exc:
                raise NotConforming(f"{check.__name__}, {transport.me}: {exc}") from exc
    finally:
        began = time.monotonic()
        transport.close(linger_s=2.0)
        took_s = time.monotonic() - began
    expect(took_s < 4.0, f"closing with a linger of 2 s took {took_s:.1f} s")
    transport.close()  # again, and nothing happens
    with suppress(TransportError):
        transport.recv(0)
        raise NotConforming("receiving from a closed transport raises TransportError")
    with suppress(TransportError):
        transport.publish([b"x"])
        raise NotConforming("publishing on a closed transport raises TransportError")


def check_group(transports: Sequence[Transport], checks: Sequence[Check] = CHECKS) -> None:
    """check_transport for members that all live in this process, a thread each."""
    failures: list[BaseException] = []

    def run(transport: Transport) -> None:
        try:
            check_transport(transport, checks)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(t,), daemon=True) for t in transports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE_S * (len(checks) + 1))
        expect(not thread.is_alive(), "a member got stuck")
    if failures:
        raise failures[0]
