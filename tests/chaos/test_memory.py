"""A peer whose memory runs out ends with one line, and the others go on without it."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.peers import Federation, Site, wait_for
from bt.precision import ran_out_of_memory

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]
MORE_BYTES = 24 << 20  # than it has when it starts to train: enough for threads, not for training


@pytest.mark.parametrize(
    ("said", "memory"),
    [
        ("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory", True),
        ("std::bad_alloc", True),
        ("could not create a memory object", True),
        ("could not create a primitive", True),  # oneDNN, where its code has no place
        ("could not create a primitive descriptor for a convolution", False),  # can't do that
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_what_says_that_memory_ran_out(said: str, memory: bool) -> None:
    assert ran_out_of_memory(RuntimeError(said)) == memory
    assert not ran_out_of_memory(ValueError(said))


def address_space(site: Site) -> int:
    text = Path(f"/proc/{site.pid}/statm").read_text()
    return int(text.split()[0]) * resource.getpagesize()


def test_out_of_memory_is_one_line_and_the_others_finish(
    federate: Callable[..., Federation],
) -> None:
    large = ("--filters", "32", "--slice-step", "1", "--crop", "1", "--margin", "20")
    federation = federate("A", "B", rounds=1, more=("--ping-timeout", "1", *large))
    a, b = federation["A"], federation["B"]
    federation.start()
    wait_for(lambda: a.events("start"), "A has started")
    most = address_space(a) + MORE_BYTES
    resource.prlimit(a.pid, resource.RLIMIT_AS, (most, most))
    wait_for(lambda: a.code is not None, "A has ended")
    assert a.code == 1
    last = a.said().strip().splitlines()[-1]
    assert last.startswith("bt: ")
    assert "memory" in last
    assert "Traceback" not in a.said()
    wait_for(lambda: b.code is not None, "B has ended")
    assert b.count == 1
