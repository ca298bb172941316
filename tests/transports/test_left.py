"""What a peer leaves in a shared folder answers for it, and nothing else that lies there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.waiting import wait_until
from transports import image, messages
from transports.base import PeerGone, TransportError
from transports.folder import FolderTransport
from transports.messages import Ping, Pull, Version, Weights

LIMITS = messages.Limits(1 << 24)
IMAGE = memoryview(bytes(range(256)) * 1000)
DIGEST = image.digest(IMAGE)
TOLD = Version("a", (0, 3), 5, "0" * 64, "training", DIGEST)


@pytest.fixture
def b(shared: Path) -> Iterator[FolderTransport]:
    transport = FolderTransport("b", shared, ["a"])
    yield transport
    with suppress(TransportError):
        transport.close()


def leave(shared: Path, told: Version = TOLD, data: memoryview = IMAGE) -> FolderTransport:
    a = FolderTransport("a", shared, ["b"])
    a.leave(messages.encode(told), told.digest, data)
    return a


def ask(transport: FolderTransport, question: messages.Message) -> messages.Message | None:
    """The answer at hand, if there is one."""
    with suppress(PeerGone):
        transport.send("a", messages.encode(question))
    received = transport.recv(0)
    if received is None:
        return None
    assert received.sender == "a"
    return messages.decode(received.frames, limits=LIMITS)


def pull(offset: int, length: int, digest: str = DIGEST) -> Pull:
    return Pull("b", digest, offset, length)


def test_who_is_away_answers(shared: Path, b: FolderTransport) -> None:
    leave(shared).close()
    assert ask(b, Ping("b")) == replace(TOLD, state="away")
    answer = ask(b, pull(1000, 500))
    assert isinstance(answer, Weights)
    assert (answer.sender, answer.size, answer.offset) == ("a", IMAGE.nbytes, 1000)
    assert answer.data == IMAGE[1000:1500]
    last = ask(b, pull(IMAGE.nbytes - 10, 500))
    assert isinstance(last, Weights)
    assert last.data == IMAGE[-10:]


def test_who_is_there_answers_the_same_way_in_its_own_state(
    shared: Path, b: FolderTransport
) -> None:
    a = leave(shared)
    try:
        assert ask(b, Ping("b")) == TOLD
        assert isinstance(ask(b, pull(0, 10)), Weights)
        unknown = pull(0, 10, "f" * 32)
        assert ask(b, unknown) is None, "it may have that: it is asked itself"
        received = a.recv(5)
        assert received is not None
        assert messages.decode(received.frames, limits=LIMITS) == unknown
    finally:
        a.close()
    wait_until(lambda: ask(b, pull(7, 10, "f" * 32)) is not None, 5)
    gone = ask(b, pull(7, 10, "f" * 32))
    assert gone == Weights("a", "f" * 32, 0, 7, memoryview(b""))


def test_who_has_finished_stays_so(shared: Path, b: FolderTransport) -> None:
    leave(shared, replace(TOLD, state="finished")).close()
    assert ask(b, Ping("b")) == replace(TOLD, state="finished")


def test_who_left_nothing_can_not_be_reached(shared: Path, b: FolderTransport) -> None:
    FolderTransport("a", shared).close()
    for question in (Ping("b"), pull(0, 10)):
        with pytest.raises(PeerGone, match="not there now"):
            b.send("a", messages.encode(question))
        assert b.recv(0) is None


def test_the_last_two_images_stay_also_after_a_restart(shared: Path) -> None:
    for number in range(5):
        data = memoryview(bytes([number]) * 100)
        leave(shared, replace(TOLD, digest=image.digest(data)), data).close()
    left = sorted(path.name for path in (shared / "a").glob("*.model"))
    expected = [image.digest(memoryview(bytes([number]) * 100)) for number in (3, 4)]
    assert left == sorted(f"{digest}.model" for digest in expected)


def test_who_lost_its_disk_learns_what_it_once_said(shared: Path) -> None:
    """As others would tell it, were they there."""
    b = FolderTransport("b", shared)
    said = replace(TOLD, sender="b", version=(1, 9))
    b.leave(messages.encode(said), DIGEST, IMAGE)
    b.close()
    leave(shared).close()
    b = FolderTransport("b", shared)
    try:
        assert ask(b, Ping("b")) == replace(TOLD, state="away", seen=(1, 9))
    finally:
        b.close()


HOSTILE = {
    "nothing": b"",
    "noise": b"\xff" * 100,
    "large": b" " * (1 << 17),
    "another's": b"".join(messages.encode(replace(TOLD, sender="c"))),
    "a ping": b"".join(messages.encode(Ping("a"))),
    "torn": b"".join(messages.encode(TOLD))[:-9],
}


@pytest.mark.parametrize("name", [*HOSTILE, "a link", "a folder"])
def test_a_version_that_is_none_is_none(
    shared: Path, b: FolderTransport, tmp_path: Path, name: str
) -> None:
    leave(shared).close()
    place = shared / "a" / "version"
    place.rename(tmp_path / "version")
    if name == "a link":
        place.symlink_to(tmp_path / "version")
    elif name == "a folder":
        place.mkdir()
    else:
        place.write_bytes(HOSTILE[name])
    assert ask(b, Ping("b")) is None


def test_an_image_is_no_link(shared: Path, b: FolderTransport, tmp_path: Path) -> None:
    leave(shared).close()
    place = shared / "a" / f"{DIGEST}.model"
    place.rename(tmp_path / "secret")
    place.symlink_to(tmp_path / "secret")
    assert ask(b, pull(0, 10)) == Weights("a", DIGEST, 0, 0, memoryview(b""))


def test_a_file_that_claims_more_than_any_model_has_is_no_image() -> None:
    # Not every file system takes one so large, but this one does.
    with TemporaryDirectory(dir="/dev/shm") as folder:
        shared = Path(folder)
        leave(shared).close()
        os.truncate(shared / "a" / f"{DIGEST}.model", 1 << 60)
        b = FolderTransport("b", shared, ["a"])
        try:
            assert ask(b, pull(0, 10)) == Weights("a", DIGEST, 0, 0, memoryview(b""))
        finally:
            b.close()


def test_what_is_no_image_of_this_peer_stays(shared: Path) -> None:
    leave(shared).close()
    others = [shared / "a" / "my-notes.model", shared / "a" / f"{DIGEST}.model.old"]
    for other in others:
        other.touch()
    for number in range(5):
        data = memoryview(bytes([number]) * 100)
        leave(shared, replace(TOLD, digest=image.digest(data)), data).close()
    assert all(other.exists() for other in others)
