"""ZeroMQ: peers that come, go and come back, strangers, and addresses that can't be used."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import ExitStack, closing, suppress

import pytest
import zmq

from tests.transports.sockets import (
    NAMES,
    PATIENCE_S,
    announce,
    connected,
    deliver,
    equipped,
    free_port,
    until_gone,
)
from transports import sockets
from transports.base import PeerGone, TransportError
from transports.testing import CHECKS, check_group
from transports.zeromq import ZeroMQTransport


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, join):
    check_group([join(name) for name in NAMES], [check])


# --- coming and going


def test_nobody_there_is_said_at_once(join):
    a = join("a")
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(PeerGone, match="peer b: not connected"):
            a.send("b", [b"x"])
    assert time.monotonic() - began < 1.0


def test_a_late_peer_finds_nothing_old_and_is_found(join):
    a = join("a")
    with pytest.raises(PeerGone):
        a.send("b", [b"old"])
    b = join("b")
    assert deliver(a, b, [b"new"]).sender == "a"
    assert deliver(b, a, [b"back"]).sender == "b"
    assert announce(a, b, [b"news"]).sender == "a"


def test_a_restarted_peer_is_found_at_the_same_address(join):
    a, b = join("a"), join("b")
    deliver(a, b, [b"1"])
    deliver(b, a, [b"2"])
    announce(b, a, [b"3"])
    b.close()
    until_gone(a, "b")
    b = join("b")
    assert deliver(a, b, [b"4"]).sender == "a"
    assert deliver(b, a, [b"5"]).sender == "b"
    assert announce(b, a, [b"6"]).sender == "b"  # over tcp from another port than before
    assert announce(a, b, [b"7"]).sender == "a"


def test_a_killed_peer_restarts_at_the_same_address(join, addresses, keys, tmp_path):
    """kill -9 leaves the files of its Unix sockets behind."""
    program = (
        "import sys; from pathlib import Path; from transports.keys import KeyPair\n"
        "from transports.zeromq import ZeroMQTransport as Z\n"
        "options = {'keys': KeyPair.read(Path(sys.argv[3]))} if sys.argv[3:] else {}\n"
        "t = Z('b', sys.argv[1], {'a': sys.argv[2]}, **options)\n"
        "print('up', flush=True); t.recv(100)"
    )
    command = [sys.executable, "-c", program, addresses["b"], addresses["a"]]
    if keys:
        keys["b"].write(tmp_path / "key")
        command.append(str(tmp_path / "key"))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        with pytest.raises(TransportError, match="in use"):
            join("b")
        process.send_signal(signal.SIGKILL)
    a, b = join("a"), join("b")
    deliver(a, b, [b"x"])
    announce(b, a, [b"y"])


def test_what_was_sent_before_leaving_arrives(join):
    for _ in range(5):
        a, b = join("a"), join("b")
        deliver(a, b, [b"hello"])
        deliver(b, a, [b"hello"])
        big = os.urandom(2_000_000)
        a.send("b", [b"last words", big])
        a.close()
        until_gone_or_read = time.monotonic() + PATIENCE_S
        while (message := b.recv(0.1)) is None or bytes(message.frames[0]) != b"last words":
            assert time.monotonic() < until_gone_or_read
        assert bytes(message.frames[1]) == big
        b.close()


def test_one_of_two_needs_no_address(join, addresses):
    """a does not know where b is; b connects, and both can start a conversation."""
    a = join("a", {"b": None})
    b = join("b", {"a": addresses["a"]})
    assert deliver(b, a, [b"first"]).sender == "b"
    assert deliver(a, b, [b"answer"]).sender == "a"
    assert announce(a, b, [b"news"]).sender == "a"
    b.close()
    until_gone(a, "b")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance_of_one_without_a_port(check, join):
    check_group([join("a"), join("b"), join("c", listen=None)], [check])


def test_news_of_one_without_a_port_reach_those_it_connects_to(join, addresses):
    a = join("a", {"b": None})
    b = join("b", {"a": addresses["a"]}, listen=None)
    assert b.endpoint == ""
    assert announce(b, a, [b"news"]).sender == "b"
    assert announce(a, b, [b"news"]).sender == "a"


def test_an_address_that_leads_nowhere_is_none(join, addresses):
    """b says where it listens, but nothing gets through to there."""
    a = join("a", {"b": f"tcp://127.0.0.1:{free_port()}"})
    b = join("b", {"a": addresses["a"]})
    assert deliver(b, a, [b"first"]).sender == "b"
    assert deliver(a, b, [b"answer"]).sender == "a"
    assert announce(a, b, [b"news"]).sender == "a"


def test_strangers_are_not_heard(join, addresses, keys):
    a = join("a", {"b": None})
    c = join("c", {"a": addresses["a"]})
    b = join("b", {"a": addresses["a"]})
    deadline = time.monotonic() + PATIENCE_S
    heard_of_c = False
    while not (heard_of_c or keys) and time.monotonic() < deadline:
        with suppress(PeerGone):
            c.send("a", [b"psst"])
            heard_of_c = True
        c.recv(0.01)
    assert heard_of_c or keys  # with keys it is not even let in
    assert deliver(b, a, [b"from b"]).sender == "b"
    assert a.recv(0.1) is None
    with pytest.raises(PeerGone):
        a.send("c", [b"x"])


def test_a_full_queue_is_no_reason_to_wait(join):
    """A peer that reads nothing ends up as PeerGone; the sender never blocks."""
    a, b = join("a"), join("b")
    deliver(a, b, [b"hello"])
    began = time.monotonic()
    until_gone(a, "b", [bytes(100_000)], times=100)
    assert time.monotonic() - began < 10.0


def test_closing_does_not_wait_for_a_peer_that_reads_nothing(join):
    a, b = join("a"), join("b")
    deliver(a, b, [b"hello"])
    until_gone(a, "b", [bytes(100_000)], times=100)
    began = time.monotonic()
    a.close(linger_s=0.2)
    assert time.monotonic() - began < 2.0


def test_a_talkative_peer_does_not_starve_the_others(join):
    a, b, c = (join(name) for name in NAMES)
    deliver(b, a, [b"hello"])
    deliver(c, a, [b"hello"])
    a.recv(0.1)
    for _ in range(300):
        b.send("a", [b"noise"])
    c.send("a", [b"ping"])
    before = 0
    while (message := a.recv(5.0)) is not None and message.sender != "c":
        before += 1
    assert message is not None
    assert before < 300


# --- noise


def test_noise_and_other_zmq_programs_disturb_nobody(join, addresses):
    a, b = join("a"), join("b")
    deliver(a, b, [b"hello"])
    for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(1000), b"\xff" + bytes(63) + b"\x02"):
        with connected(addresses["a"]) as raw, suppress(ConnectionError):
            raw.sendall(noise)
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        equipped(dealer, "b-to-be").connect(addresses["a"])
        for parts in ([b""], [b"m"], [b"h", b"\xff"], [b"h", b"1"], [b"?", b"x"], [b"", b"", b""]):
            dealer.send_multipart(parts)
        assert deliver(b, a, [b"still here"]).sender == "b"
        assert a.recv(0.1) is None


def test_malformed_parts_of_a_known_peer(join, addresses, keys):
    """Somebody speaks as b, but not our language."""
    a = join("a", {"b": None})
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        server_key = keys["a"].public if keys else ""
        equipped(dealer, "b", keys.get("b"), server_key).connect(addresses["a"])
        hellos = ([b"h"], [b"h", b"\xff"], [b"h", b"99999999"], [b"h", b"-1"], [b"h", b"1", b"2"])
        for parts in ([b""], [b"?", b"x"], [b"", b"", b""], *hellos, [b"m", b"end"]):
            dealer.send_multipart(parts)
        message = a.recv(PATIENCE_S)
        assert message is not None
        assert (message.sender, [bytes(f) for f in message.frames]) == ("b", [b"end"])


def test_frames_above_the_limit_never_arrive(join):
    a, b = join("a"), join("b", max_message_bytes=10_000)
    deliver(a, b, [bytes(10_000)])
    a.send("b", [bytes(10_001)])
    while (message := b.recv(0.2)) is not None:
        assert message.frames[0].nbytes <= 10_000
    deliver(a, b, [b"and it goes on"])


# --- addresses


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "[::]", "eth0"])
def test_public_addresses_are_refused(host):
    with pytest.raises(TransportError, match="can be reached from other machines") as caught:
        ZeroMQTransport("a", f"tcp://{host}:{free_port()}", {})
    assert "\n" not in str(caught.value)


def test_public_addresses_if_it_must_be():
    with closing(ZeroMQTransport("a", "tcp://0.0.0.0:*", {}, insecure=True)) as transport:
        assert transport.endpoint.startswith("tcp://0.0.0.0:")


def test_a_public_announcement_address_is_refused_too():
    with pytest.raises(TransportError, match=r"0\.0\.0\.0:\* can be reached"):
        ZeroMQTransport("a", "tcp://127.0.0.1:*", {}, announce="tcp://0.0.0.0:*")


def test_announcements_at_an_address_of_ones_choice():
    port = free_port()
    with closing(
        ZeroMQTransport("a", "tcp://127.0.0.1:*", {}, announce=f"tcp://127.0.0.1:{port}")
    ) as a:
        addresses = {"a": a.endpoint}
        with closing(ZeroMQTransport("b", "tcp://127.0.0.1:*", addresses)):
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                pass


def test_what_is_published_is_no_answer():
    with closing(ZeroMQTransport("a", "tcp://127.0.0.1:*", {"b": None})) as a:
        addresses = {"a": a.endpoint}
        with closing(ZeroMQTransport("b", "tcp://127.0.0.1:*", addresses)) as b:
            assert not deliver(b, a, [b"question"]).published
            assert not deliver(a, b, [b"answer"]).published
            for _ in range(1000):
                a.publish([b"news"])
                if (news := b.recv(0.01)) is not None:
                    break
            assert news.published


def test_localhost_is_an_address():
    with closing(ZeroMQTransport("a", "tcp://localhost:*", {})) as transport:
        assert transport.endpoint.startswith("tcp://127.0.0.1:")


def test_an_address_in_use_is_said_in_one_line(join, addresses):
    join("a")
    with pytest.raises(TransportError, match="is in use") as caught:
        join("a")
    assert "\n" not in str(caught.value)
    assert addresses["a"] in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_within_a_machine_nothing_waits_for_a_timer(host):
    port = free_port()
    a = ZeroMQTransport("a", None, {"b": f"tcp://{host}:{port}"})
    b = ZeroMQTransport("b", f"tcp://{host}:{port}", {"a": None})
    with closing(a), closing(b):
        deliver(a, b, [b"x"])
        rules = {}  # of its two ends
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            with suppress(OSError, IndexError):
                if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    with socket.socket(fileno=os.dup(descriptor)) as end:
                        ports = end.getsockname()[1], end.getpeername()[1]
                        rule = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                        if port in ports:
                            rules[ports] = rule.rstrip(b"\0")
    assert [*rules.values()] == [b"reno"] * 2


def test_a_descriptor_that_is_a_file_by_now_is_left_alone():
    with open(os.devnull, "rb") as file:
        before = len(os.listdir("/proc/self/fd"))
        sockets.unpaced(file.fileno())
        sockets.unpaced(-1)
        assert len(os.listdir("/proc/self/fd")) == before


def test_hundreds_of_peers_find_room_and_are_no_crowd():
    """libzmq has 1023 sockets unless it is told, and every peer takes six."""
    peers = {f"p{n}": f"tcp://127.0.0.1:{1 + n}" for n in range(400)}  # nobody is there
    with closing(ZeroMQTransport("a", "tcp://127.0.0.1:*", peers)) as a:
        assert len(os.listdir("/proc/self/fd")) > 1200
        assert a.recv(0) is None
        a._door.most = 400  # far fewer than there are
        a._door.look(len(a.peers))
        assert not a._door.shut
        a._door.look(0)
        assert a._door.shut


def test_too_few_descriptors_for_all_peers_are_one_line(monkeypatch):
    monkeypatch.setattr(sockets, "MOST_SOCKETS", 40)
    peers = {f"p{n}": f"tcp://127.0.0.1:{1 + n}" for n in range(40)}
    with pytest.raises(TransportError, match=r"no more sockets \(Too many") as caught:
        ZeroMQTransport("a", "tcp://127.0.0.1:*", peers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("me", "listen", "peers", "line"),
    [
        ("a", "ipc:///no/such/folder/a", {}, "can't listen at ipc:///no/such/folder/a"),
        ("a", "ipc://" + "x" * 104, {}, "choose a shorter folder"),
        ("a", "localhost:7301", {}, "is no address"),
        ("a", "tcp://127.0.0.1:*", {"b": "nowhere"}, "'nowhere' is no address"),
        ("a", "tcp://127.0.0.1:*", {"a": None}, "peer a is among its own peers"),
        ("a b", "tcp://127.0.0.1:*", {}, "'a b' can't name a peer"),
        ("a", "tcp://127.0.0.1:*", {"": None}, "'' can't name a peer"),
    ],
)
def test_what_can_not_be(me, listen, peers, line):
    with pytest.raises(TransportError, match=line) as caught:
        ZeroMQTransport(me, listen, peers)
    assert "\n" not in str(caught.value)


def test_busy_peers_take_turns(tmp_path):
    """Each over a connection that a made: the third is heard as often as the first."""
    places = {name: f"ipc://{tmp_path}/{name}" for name in "bcd"}
    with ExitStack() as stack:

        def join(me, listen, peers):
            return stack.enter_context(closing(ZeroMQTransport(me, listen, peers)))

        busy = [join(name, places[name], {"a": None}) for name in places]
        a = join("a", None, places)
        for one in busy:
            deliver(a, one, [b"hello"])
        heard = dict.fromkeys(places, 0)
        while max(heard.values()) < 600:
            for one in busy:
                with suppress(PeerGone):  # it has sent more than is read
                    for _ in range(20):
                        one.send("a", [b"x" * 300])
            for _ in range(40):
                if (message := a.recv(0)) is not None:
                    heard[message.sender] += 1
        assert min(heard.values()) > 300, heard


def test_only_small_messages_are_read_ahead(join):
    a, b = join("a"), join("b")
    deliver(b, a, [b"hello"])
    for _ in range(20):
        b.send("a", [bytes(1000)] * 10)
    for _ in range(20):
        assert a.recv(PATIENCE_S) is not None
        assert not a._ahead
