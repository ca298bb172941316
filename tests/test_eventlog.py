"""events.jsonl: a crash may tear the last line, never the ones before or after."""

from __future__ import annotations

import json
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


def test_counters_are_whole_numbers(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("end", merged=3.0, bytes_in=1e9, seconds=2.0)  # as after a resume
    log.close()
    line = (tmp_path / "events.jsonl").read_text()
    assert '"merged": 3, "bytes_in": 1000000000, "seconds": 2.0}' in line


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


def test_a_torn_last_line_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "start"}\n{"event": "pe')
    log = EventLog(path)
    log.write("start")
    log.close()
    EventLog(path).close()  # and a whole one is left as it is
    assert names(EventReader(path)) == ["start", "start"]
    assert len(path.read_text().splitlines()) == 3
