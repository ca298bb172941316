"""Keys: what is one, what shows of them, and files that keep them."""

from __future__ import annotations

import os
import stat
import traceback
from dataclasses import FrozenInstanceError

import pytest
from zmq.utils import z85

from transports.base import TransportError
from transports.keys import BadKey, KeyPair, valid_key

PAIR = KeyPair.new()


def kind(value: object) -> str:
    """What a test is named by: keys differ each time, and tests in parallel need equal names."""
    return type(value).__name__


def low_order(number: int) -> str:
    return z85.encode(number.to_bytes(32, "little")).decode()


def test_a_new_pair_is_valid_and_nobody_elses():
    assert valid_key(PAIR.public)
    assert len(PAIR.secret) == 40
    assert KeyPair.new().public != PAIR.public
    assert KeyPair(PAIR.public, PAIR.secret) == PAIR


@pytest.mark.parametrize(
    "key",
    ["", "x", PAIR.public[:39], PAIR.public + "0", PAIR.public[:39] + "\n", PAIR.public[:39] + '"',
     "é" * 40, "#" * 40, PAIR.public.encode(), None, 40,
     "0" * 40, low_order(1), low_order(2**255 - 20), low_order(2**255 - 19), low_order(2**255),
     low_order(325606250916557431795983626356110631294008115727848805560023387167927233504)],
    ids=kind,
)  # fmt: skip
def test_what_is_no_key(key):
    assert not valid_key(key)


@pytest.mark.parametrize(
    ("public", "secret"),
    [
        (PAIR.public, KeyPair.new().secret),
        (PAIR.public, PAIR.secret[:39]),
        (PAIR.public, "#" * 40),
        ("0" * 40, PAIR.secret),
        (PAIR.secret, PAIR.public),
    ],
    ids=kind,
)
def test_what_is_no_pair(public, secret):
    with pytest.raises(BadKey, match="no pair") as caught:
        KeyPair(public, secret)
    assert isinstance(caught.value, TransportError)
    assert PAIR.secret[:39] not in "".join(traceback.format_exception(caught.value))


def test_the_secret_shows_nowhere():
    for text in (repr(PAIR), str(PAIR), f"{PAIR}", repr([PAIR])):
        assert PAIR.secret not in text
        assert PAIR.public in text
    with pytest.raises(FrozenInstanceError):
        PAIR.secret = ""


def test_a_file_keeps_the_pair_for_its_owner_alone(tmp_path):
    path = tmp_path / "a.key"
    before = os.umask(0)
    try:
        PAIR.write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyPair.read(path) == PAIR
    assert os.listdir(tmp_path) == ["a.key"]


def test_a_file_is_never_overwritten(tmp_path):
    path = tmp_path / "a.key"
    PAIR.write(path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "target")
    for taken in (path, tmp_path / "nowhere"):
        with pytest.raises(BadKey, match="exists already") as caught:
            KeyPair.new().write(taken)
        assert "\n" not in str(caught.value)
    assert KeyPair.read(path) == PAIR
    assert sorted(os.listdir(tmp_path)) == ["a.key", "nowhere"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_file_others_can_get_at_is_refused(tmp_path, mode):
    path = tmp_path / "a.key"
    PAIR.write(path)
    path.chmod(mode)
    with pytest.raises(BadKey, match=f"chmod 600 {path}") as caught:
        KeyPair.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff" * 100,
        PAIR.secret.encode(),
        f'secret = "{PAIR.secret}"\n'.encode(),
        f'public = "{PAIR.public}"\nsecret = "{PAIR.secret[:39]}"\n'.encode(),
        f'public = "{PAIR.public}"\nsecret = "{KeyPair.new().secret}"\n'.encode(),
        f'public = "{PAIR.public}"\nsecret = "{PAIR.secret}"\nmore = 1\n'.encode(),
    ],
    ids=kind,
)
def test_what_is_no_key_file(tmp_path, text):
    path = tmp_path / "a.key"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(BadKey, match=r"a\.key") as caught:
        KeyPair.read(path)
    assert "\n" not in str(caught.value)
    assert PAIR.secret[:39] not in "".join(traceback.format_exception(caught.value))


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, line in (("pipe", "no key file"), ("", "no key file"), ("none", "No such file")):
        with pytest.raises(BadKey, match=line):
            KeyPair.read(tmp_path / name)
    with pytest.raises(BadKey, match=r"can't write .*No such file"):
        PAIR.write(tmp_path / "no folder" / "a.key")
