"""Messages as files: their order, and what else may lie in a folder that others write to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.transports.folders import JoinFolder, deliver, inbox, meet, next_of, numbers
from transports import mailbox
from transports.base import PeerGone, TransportError
from transports.mailbox import Letter


def test_junk_is_left_alone_and_disturbs_nobody(join_folder: JoinFolder, shared: Path) -> None:
    a, b = join_folder("a"), join_folder("b")
    meet(a, b)
    junk = inbox(shared, "b")
    names = ["notes.txt", "a~1~2", "a~" + "9" * 20, ".nfs0001", "..a", "a b~c", "x" * 200]
    for name in names:
        (junk / name).write_bytes(b"junk")
    (junk / "folder").mkdir()
    (shared / "README").write_text("not a peer")
    (shared / "no peer!").mkdir()
    (shared / "just-a-folder").mkdir()
    (shared / "link").symlink_to(shared / "a")
    assert deliver(a, b, [b"through"]).sender == "a"
    assert b.recv(1.2) is None
    assert b.peers == ("a",)
    assert {path.name for path in junk.iterdir()} == {*names, "folder"}
    b.close()
    join_folder("b")
    assert {path.name for path in junk.iterdir()} == {*names, "folder"}, "nobody's to delete"


def of_a(number: int, start: int = 10**19) -> str:
    return str(Letter("a", start, number))


def test_torn_and_hostile_files_are_no_messages(
    join_folder: JoinFolder, shared: Path, tmp_path: Path
) -> None:
    a, b = join_folder("a"), join_folder("b", max_message_bytes=10_000)
    deliver(a, b, [b"hello"])
    whole = written(shared, tmp_path)
    box = inbox(shared, "b")
    secret = tmp_path / "secret"
    secret.write_bytes(whole)
    bad = {
        0: lambda path: path.write_bytes(whole[:-1]),
        1: lambda path: path.write_bytes(b""),
        2: lambda path: path.write_bytes(whole[:-1] + b"?"),
        3: lambda path: path.write_bytes(whole[:24] + b"\xff" * 8 + whole[32:]),
        4: lambda path: path.symlink_to(secret),
        5: lambda path: path.mkdir(),
        6: lambda path: os.mkfifo(path),
        7: lambda path: path.write_bytes(whole + bytes(100_000)),
        8: lambda path: path.write_bytes(bytes(len(whole))),
        9: lambda path: path.symlink_to("/dev/zero"),
        10: lambda path: path.symlink_to(path),
    }
    for number, make in bad.items():
        make(box / of_a(number))
    (box / of_a(11)).write_bytes(whole)
    assert [bytes(f) for f in next_of(b, b"whole").frames] == [b"whole", b"", b"x" * 100]
    assert b.recv(0.3) is None
    assert {path.name for path in box.iterdir()} == {of_a(5)}
    assert secret.read_bytes() == whole, "a link's end is nobody's to delete"


def written(shared: Path, tmp_path: Path) -> bytes:
    """The bytes of a message as a file."""
    place = tmp_path / "elsewhere" / "b" / mailbox.INBOX
    place.mkdir(parents=True)
    outbox = mailbox.Outbox(str(tmp_path / "elsewhere"), "a", "b", shared.stat())
    outbox.put([b"whole", b"", b"x" * 100])
    (path,) = place.iterdir()
    return path.read_bytes()


def test_strangers_are_not_heard(join_folder: JoinFolder, shared: Path, tmp_path: Path) -> None:
    b = join_folder("b")
    stranger = inbox(shared, "b") / str(Letter("nobody", 1, 0))
    stranger.write_bytes(written(shared, tmp_path))
    assert b.recv(0.5) is None
    assert not stranger.exists()
    assert b.peers == ()


def test_order_holds_however_a_folder_is_listed(
    join_folder: JoinFolder, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing may lack a file that was there before another one that it has."""
    a, b = join_folder("a"), join_folder("b")
    meet(a, b)
    listed = os.scandir

    class Partly:
        """Every second entry, the last one included."""

        def __init__(self, folder: int) -> None:
            with listed(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name)[::-2]

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *exc: object) -> None: ...

    for number in range(20):
        a.send("b", [b"%d" % number])
    monkeypatch.setattr(mailbox.os, "scandir", Partly)
    assert numbers(b) == [*range(20)]


def test_a_message_that_others_have_overtaken_is_dropped(
    join_folder: JoinFolder, shared: Path, tmp_path: Path
) -> None:
    a, b = join_folder("a"), join_folder("b")
    meet(a, b)
    content = written(shared, tmp_path)
    (inbox(shared, "b") / of_a(5)).write_bytes(content)
    assert bytes(next_of(b, b"whole").frames[0]) == b"whole"
    (inbox(shared, "b") / of_a(4)).write_bytes(content)
    assert b.recv(0.3) is None
    assert list(inbox(shared, "b").iterdir()) == []


def test_links_lead_nobody_out_of_the_folder(
    join_folder: JoinFolder, shared: Path, tmp_path: Path
) -> None:
    """Who can write here must not have a peer write, read or delete elsewhere."""
    a, b = join_folder("a"), join_folder("b")
    meet(a, b)
    away = tmp_path / "away"
    away.mkdir()
    inbox(shared, "b").rename(tmp_path / "was")
    inbox(shared, "b").symlink_to(away)
    with pytest.raises(PeerGone, match="can't write into"):
        a.send("b", [b"x"])
    (shared / "c").symlink_to(away)
    with pytest.raises(TransportError, match="can't take part in"):
        join_folder("c")
    assert list(away.iterdir()) == []
