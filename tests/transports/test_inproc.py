"""Queues within one process, and the faults they can be given."""

from __future__ import annotations

import pytest

from transports.base import PeerGone, TransportError
from transports.inproc import Faults, Network
from transports.testing import CHECKS, check_group


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check):
    network = Network(["a", "b", "c"])
    check_group([network.join(name) for name in network.names], [check])


def test_conformance_in_one_go():
    network = Network([f"peer-{i}" for i in range(5)])
    check_group([network.join(name) for name in network.names])
