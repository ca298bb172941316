"""Processes that serve, and clients that take turns. Nothing here depends on how long it takes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from benchmarks import ceilings, latency, memory, model, peaks, transports
from benchmarks.children import ROOT, Child, Failed, Unavailable
from benchmarks.harness import MIN_ROUNDS, Way, clients, interleave, measure, served
from benchmarks.results import Found, Ping, Transfer

WAYS = "tests.benchmarks.ways:"
RAW = ("benchmarks.ceilings:pull_bytes", "benchmarks.ceilings:serve_bytes")


# --- children


def test_a_child_says_values_and_only_those() -> None:
    with Child(WAYS + "chatty") as child:
        assert child.hear() == {"here": [1, 2]}
        assert child.cpu_s() > 0
        assert child.peak_bytes() > 1 << 20


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("absent", Unavailable, "not built yet"),
        ("broken", Failed, "ways:broken: ValueError: broken on purpose"),
        ("ends", Failed, "ended with 1: had enough"),
        ("missing", Failed, "AttributeError"),
    ],
)
def test_a_child_without_a_value_says_why(
    function: str, error: type[Exception], message: str
) -> None:
    with Child(WAYS + function) as child, pytest.raises(error, match=message):
        child.hear()


def test_a_child_hears_what_it_is_told_until_it_ends() -> None:
    with Child(WAYS + "counts") as child:
        child.tell()
        assert child.hear() == 1
        child.tell()
        assert child.hear() == 2
    with Child(WAYS + "ends") as child:
        with pytest.raises(Failed, match="ended with 1"):
            child.hear()
        with pytest.raises(Failed, match="ends has ended: had enough"):
            child.tell()


def test_a_silent_child_is_not_waited_for_for_ever() -> None:
    with Child(WAYS + "silent") as child, pytest.raises(Failed, match="said nothing"):
        child.hear(0.01)


def test_a_child_does_not_outlive_a_killed_parent() -> None:
    code = (
        "from benchmarks.children import Child\n"
        f"child = Child('{WAYS}chatty')\n"
        "child.hear(), print(child.pid, flush=True), input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        signal.pidfd_send_signal(child, 0)  # raises if it had ended by itself
        import select

        assert select.select([child], [], [], 30)[0], "the child is still there"
        os.close(child)


# --- turns


def test_everybody_takes_turns_forth_and_back_after_a_warm_up() -> None:
    calls: list[str] = []
    found = Found()
    samples = interleave(
        {name: lambda name=name: calls.append(name) for name in "abc"},
        rounds=2,
        budget_s=60,
        found=found,
        before=lambda name: calls.append(f"before {name}"),
    )
    assert [call for call in calls if len(call) == 1] == [*"abc", *"cba", *"abc"]
    assert calls[:2] == ["before a", "a"]
    assert all(len(each.seconds) == 2 for each in samples.values())
    assert not found.failed


def test_who_fails_is_out_and_the_others_go_on() -> None:
    def fails() -> None:
        raise ConnectionError("the server is gone")

    found = Found()
    samples = interleave({"bad": fails, "good": lambda: None}, rounds=4, budget_s=60, found=found)
    assert found.failed == {"bad": "the server is gone"}
    assert len(samples.pop("good").seconds) == 4
    assert not samples


def test_a_spent_budget_leaves_the_fewest_rounds() -> None:
    samples = interleave({"a": lambda: None}, rounds=50, budget_s=-1, found=Found())
    assert len(samples["a"].seconds) == MIN_ROUNDS


def test_wrong_merges_are_found_out() -> None:
    half = model.values(model.TINY, model.OWN) / 2 + model.values(model.TINY, model.THEIRS) / 2
    model.verify([half[:1000], half[1000:]], model.TINY, peers=1)
    with pytest.raises(ValueError, match="not the mean"):
        model.verify([half], model.TINY, peers=2)
    with pytest.raises(ValueError, match="has 1000 values"):
        model.verify([half[:1000]], model.TINY, peers=1)

    found = measure(
        [Way("right", WAYS + "merged_right"), Way("wrong", WAYS + "merged_wrong")],
        model.TINY,
        rounds=1,
        budget_s=60,
    )
    assert list(found.cases) == ["right"]
    assert "not the mean" in found.failed["wrong"]


# --- whole measurements


def test_servers_clients_and_ceilings() -> None:
    found = measure(
        [
            Way("raw-tcp", *RAW),
            Way("raw-unix", *RAW, "ipc", ceiling="raw-tcp", rivals=("raw-tcp", "missing")),
            Way("of-three", *RAW, peers=3, ceiling="missing"),
            Way("absent", WAYS + "absent", WAYS + "absent"),
            Way("no-client", WAYS + "absent", RAW[1]),
            Way("broken", RAW[0], WAYS + "broken"),
        ],
        model.TINY,
        rounds=3,
        budget_s=60,
    )
    assert found.skipped == {"absent": "not built yet", "no-client": "not built yet"}
    assert list(found.failed) == ["broken"]
    assert list(found.cases) == ["raw-tcp", "raw-unix", "of-three"]
    tcp, unix, three = found.cases.values()
    assert isinstance(tcp, Transfer)
    assert isinstance(unix, Transfer)
    assert isinstance(three, Transfer)
    assert tcp.ceiling is None
    assert tcp.ratio is None
    assert unix.ceiling == "raw-tcp"
    assert unix.ratio is not None
    assert unix.times_faster_than is not None
    assert unix.times_faster_than["raw-tcp"] * unix.ratio == pytest.approx(1)
    assert three.ratio is None
    assert three.gbps == pytest.approx(3 * model.TINY / three.ms / 1e6)
    for case in (tcp, unix, three):
        assert case.rounds == 3
        assert case.p10_ms <= case.ms <= case.p90_ms
        assert case.cpu_client_s is not None
        assert case.cpu_server_s is not None
        assert case.cpu_server_s > 0


def test_raw_sockets_move_the_very_bytes() -> None:
    near, far = socket.socketpair()
    into = memoryview(bytearray(model.TINY))
    wanted = model.image(model.TINY, model.THEIRS)
    with near, far:
        sender = threading.Thread(target=lambda: (far.sendall(wanted), far.close()))
        sender.start()
        ceilings.receive(near, into)
        sender.join()
        assert into == wanted
        with pytest.raises(ConnectionError, match="gone"):
            ceilings.receive(near, into)


@pytest.mark.slow
def test_the_obvious_ways_get_and_merge_the_model() -> None:
    """All their clients side by side, here; those of missing packages are left out."""
    bare = (transports.BARE, transports.BARE_IPC, transports.BARE_CURVE)
    ways = (transports.NAIVE, transports.FRAME, transports.FRAME_CURVE, *bare, *transports.OTHERS)
    found = Found()
    merged = set()
    with served(ways, model.TINY, found) as running:
        functions = {way.name: way.client for way in ways if way.name in running}
        places = {name: servers.places for name, servers in running.items()}
        with clients(functions, places, model.TINY, found) as pulls:
            for name, pull in pulls.items():
                pieces = pull()
                assert pieces is not None
                model.verify(pieces, model.TINY, peers=1)
                merged.add(name)
    assert not found.failed
    assert {*merged, *found.skipped} == {way.name for way in ways}
    ours = {"zmq-naive", "zmq-frame", "curve-frame", "bare", "bare-ipc", "bare-curve", "gloo"}
    assert ours <= merged


def test_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "SINGLE", 5)
    monkeypatch.setattr(latency, "FLOOD", 100)
    echoes = [way for way in transports.PINGS if way.name.startswith("ping-zmq")]
    found = latency.measure([*echoes, Way("absent", WAYS + "absent")], rounds=2)
    assert found.skipped == {"absent": "not built yet"}
    assert not found.failed
    for case in found.cases.values():
        assert isinstance(case, Ping)
        assert 0 < case.p50_us <= case.p99_us


@pytest.mark.slow
def test_peak_memory_is_counted_in_models() -> None:
    nbytes = 40_000_000
    case = Transfer(1.0, 1.0, 1.0, 1.0, 1)
    found = Found({"copies": case, "raw": case})
    peaks.add(found, "copies", Way("copies", WAYS + "three_copies"), nbytes)
    peaks.add(found, "raw", Way("raw", *RAW), nbytes)
    peaks.add(found, "unmeasured", Way("unmeasured", WAYS + "absent"), nbytes)
    assert not found.failed
    copies, raw = found.cases.values()
    assert isinstance(copies, Transfer)
    assert isinstance(raw, Transfer)
    assert copies.peak_models == pytest.approx(4, abs=0.2)  # the source and three copies of it
    assert copies.peak_models_server is None
    assert raw.peak_models == pytest.approx(1, abs=0.2)
    assert raw.peak_models_server == pytest.approx(1, abs=0.2)


def test_a_peak_can_be_forgotten() -> None:
    block = bytearray(80 << 20)
    before = memory.peak_bytes()
    del block
    memory.reset_peak()
    assert memory.peak_bytes() < before - (40 << 20)
    with pytest.raises(FileNotFoundError):
        memory.peak_bytes("nobody")


@pytest.mark.slow
def test_the_memory_of_who_serves_several_is_looked_at() -> None:
    puller, server = peaks._of_serving(2, model.TINY)
    assert puller > 2 * model.TINY
    assert server > model.TINY
