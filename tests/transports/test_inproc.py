"""Queues within one process, and the faults they can be given."""

from __future__ import annotations

import threading
import time

import pytest

from transports.base import PeerGone, TransportError
from transports.inproc import Faults, Network
from transports.testing import CHECKS, check_group


def received(transport):
    """The numbers that have arrived, in order of arrival."""
    numbers = []
    while (message := transport.recv(0)) is not None:
        numbers.append(int(bytes(message.frames[0])))
    return numbers


def run(count=400, seed=0, **faults):
    network = Network(["a", "b"], seed=seed, faults=Faults(**faults))
    a, b = network.join("a"), network.join("b")
    for number in range(count):
        a.send("b", [b"%d" % number])
    return received(b)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check):
    network = Network(["a", "b", "c"])
    check_group([network.join(name) for name in network.names], [check])


def test_conformance_in_one_go():
    network = Network([f"peer-{i}" for i in range(4)])
    check_group([network.join(name) for name in network.names])


def test_no_faults_by_default():
    assert run() == list(range(400))


def test_loss():
    numbers = run(loss=0.25)
    assert numbers == sorted(numbers)
    assert 200 < len(numbers) < 380


def test_duplication():
    numbers = run(duplication=0.25)
    assert set(numbers) == set(range(400))
    assert 420 < len(numbers) < 600


def test_reordering():
    numbers = run(reordering=0.25)
    assert sorted(numbers) == list(range(400))
    assert numbers != sorted(numbers)


def test_faults_depend_on_the_seed_alone():
    faults = {"loss": 0.3, "duplication": 0.3, "reordering": 0.3}
    assert run(seed=1, **faults) == run(seed=1, **faults)
    assert run(seed=1, **faults) != run(seed=2, **faults)


def test_a_link_does_not_disturb_another():
    """What b gets from a is the same whether or not c sends too."""
    arrivals = []
    for others in ([], ["c"]):
        network = Network(["a", "b", "c"], seed=3, faults=Faults(loss=0.5))
        transports = {name: network.join(name) for name in network.names}
        for number in range(100):
            for sender in ["a", *others]:
                transports[sender].send("b", [b"%d" % number])
        from_a = []
        while (message := transports["b"].recv(0)) is not None:
            if message.sender == "a":
                from_a.append(bytes(message.frames[0]))
        arrivals.append(from_a)
    assert arrivals[0] == arrivals[1]


def test_delay_keeps_the_order_and_is_waited_for():
    network = Network(["a", "b"], faults=Faults(delay_s=(0.02, 0.05)))
    a, b = network.join("a"), network.join("b")
    began = time.monotonic()
    for number in range(5):
        a.send("b", [b"%d" % number])
    assert b.recv(0) is None
    numbers = [int(bytes(b.recv(5.0).frames[0])) for _ in range(5)]
    assert numbers == list(range(5))
    assert 0.02 <= time.monotonic() - began < 1.0


def test_recv_wakes_up_when_a_message_comes():
    network = Network(["a", "b"])
    a, b = network.join("a"), network.join("b")
    waiting = threading.Event()

    def answer():
        waiting.wait(5.0)
        a.send("b", [b"1"])

    thread = threading.Thread(target=answer)
    thread.start()
    began = time.monotonic()
    waiting.set()
    assert b.recv(20.0) is not None
    assert time.monotonic() - began < 5.0
    thread.join()


def test_a_restarted_peer_starts_with_an_empty_mailbox():
    network = Network(["a", "b"])
    a, b = network.join("a"), network.join("b")
    a.send("b", [b"1"])
    b.close()
    with pytest.raises(PeerGone, match="peer b: not in the network"):
        a.send("b", [b"2"])
    b = network.join("b")
    a.send("b", [b"3"])
    assert received(b) == [3]


def test_who_may_join():
    network = Network(["a", "b"])
    network.join("a")
    with pytest.raises(TransportError, match="already joined"):
        network.join("a")
    with pytest.raises(TransportError, match="'c' is not in this network: a, b"):
        network.join("c")
    with pytest.raises(ValueError, match="'no spaces' can't name a peer"):
        Network(["no spaces"])
