"""events.jsonl: a crash may tear the last line, never the ones before or after."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest

from bt.eventlog import EventLog, EventReader


def names(reader: EventReader) -> list[str]:
    return [event["event"] for event in reader.new()]


def test_a_line_has_a_time_an_event_and_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "peer-1" / "events.jsonl"
    log = EventLog(path)
    log.write("merge", from_="b", version="3")
    event = json.loads(path.read_text())  # on disk before the log is closed
    assert event.pop("time") == pytest.approx(time.time(), abs=60)
    assert event == {"event": "merge", "from": "b", "version": "3"}
    log.close()


def test_the_reader_gives_each_event_once_and_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert names(reader) == []  # no file yet
    log = EventLog(path)
    log.write("start")
    assert names(reader) == ["start"]
    with path.open("a") as file:
        file.write('{"event": "f')
    log.write("lost")  # torn by the line before it
    log.write("fit")
    with path.open("a") as file:
        file.write('{"event": ')
    assert names(reader) == ["fit"]
    with path.open("a") as file:
        file.write('"end"}\n[1]\n"end"\n')
    assert names(reader) == ["end"]
    assert names(reader) == []
    log.close()


@pytest.mark.parametrize("end", ["", '{"event": "f'])
def test_the_reader_skips_what_is_there_already(tmp_path: Path, end: str) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    reader.skip()  # no file yet
    path.write_text(f'{{"event": "start"}}\n{end}')
    reader.skip()
    assert names(reader) == []
    log = EventLog(path)
    log.write("fit")
    assert names(reader) == ["fit"]
    log.close()


def test_a_torn_last_line_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "start"}\n{"event": "pe')
    log = EventLog(path)
    log.write("start")
    log.close()
    EventLog(path).close()  # and a whole one is left as it is
    assert names(EventReader(path)) == ["start", "start"]
    assert len(path.read_text().splitlines()) == 3


class FullDisk:
    """Takes so many more bytes."""

    def __init__(self, path: Path, room: int) -> None:
        self.room = room
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._file.write(data[: self.room])
        self.room -= written
        return written

    def close(self) -> None:
        self._file.close()


@pytest.mark.parametrize("room", [0, 3])
def test_a_full_disk_costs_lines_is_told_once_and_says_so_later(tmp_path: Path, room: int) -> None:
    path = tmp_path / "events.jsonl"
    told: list[str] = []
    log = EventLog(path, told.append)
    assert log.write("start")
    log._file.close()
    disk = log._file = FullDisk(path, room)  # type: ignore[assignment]
    assert [log.write("ping") for _ in range(5)] == [False] * 5
    assert len(told) == 1
    assert str(path) in told[0]
    disk.room = 1 << 20
    assert log.write("fit")
    log.close()
    events = [*EventReader(path).new()]
    assert [event["event"] for event in events] == ["start", "unlogged", "fit"]
    assert events[1]["events"] == 5
