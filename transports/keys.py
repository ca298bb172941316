"""Keys of a peer: the public one others know it by, and the secret one that never leaves it.

A pair of Curve25519 keys, each written as 40 printable characters (Z85). The secret one shows in
no repr and no error. On disk a pair is a file that nobody but its owner may read; it is never
overwritten, because whoever loses a secret key is a stranger to the others.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

import zmq
from zmq.utils import z85

from transports.base import TransportError

_TEXT = re.compile(r"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
_FILE = re.compile(r'(?:#.*\n)*public = "(\S{40})"\nsecret = "(\S{40})"\s*')
_MAX_FILE_BYTES = 4096

# Points of low order: what such a "public key" and any secret one agree on, everybody knows.
_P = 2**255 - 19
_WORTHLESS = {
    0,
    1,
    _P - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
}


class BadKey(TransportError):
    """A key or key file that can't be used; the message says why, and never holds a secret."""


def valid_key(text: object) -> TypeGuard[str]:
    """Whether this can be somebody's public key."""
    raw = _decode(text) if isinstance(text, str) else b""
    return len(raw) == 32 and int.from_bytes(raw, "little") % 2**255 % _P not in _WORTHLESS


def _decode(text: str) -> bytes:
    """The 32 bytes of a key, or none."""
    if _TEXT.fullmatch(text):
        try:
            return bytes(z85.decode(text))
        except struct.error:  # five of the characters are a number above 2^32
            pass
    return b""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both keys of one peer, as text. Raises BadKey if they don't belong together."""

    public: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        whole = valid_key(self.public) and len(_decode(self.secret)) == 32
        if not whole or zmq.curve_public(self.secret.encode()).decode() != self.public:
            raise BadKey("this is no pair of a public and a secret key")

    @classmethod
    def new(cls) -> KeyPair:
        """A new identity."""
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())

    @classmethod
    def read(cls, path: Path) -> KeyPair:
        """The pair in a file that only its owner may read. Raises BadKey."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            raise BadKey(f"can't read the key file {path}: {exc.strerror}") from None
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise BadKey(f"{path} is no key file")
            if status.st_mode & 0o077:
                raise BadKey(f"others can get at the secret key in {path}: chmod 600 {path}")
            text = os.read(file, _MAX_FILE_BYTES).decode("ascii", errors="replace")
        finally:
            os.close(file)
        found = _FILE.fullmatch(text)
        if found is None:
            raise BadKey(f"{path} is no key file")
        try:
            return cls(*found.groups())
        except BadKey as exc:
            raise BadKey(f"{path}: {exc}") from None

    def write(self, path: Path) -> None:
        """Make the file, whole or not at all, for its owner alone. Raises BadKey if it exists."""
        text = (
            "# A peer's keys. The others need the public one; the secret one is for nobody.\n"
            f'public = "{self.public}"\nsecret = "{self.secret}"\n'
        )
        try:
            file, temporary = tempfile.mkstemp(prefix=".key-", dir=path.parent)  # mode 0600
            try:
                with open(file, "w", encoding="ascii") as writing:
                    writing.write(text)
                    writing.flush()
                    os.fsync(file)
                os.link(temporary, path)  # fails if there is one; a rename would replace it
            finally:
                os.unlink(temporary)
        except FileExistsError:
            raise BadKey(f"{path} exists already, and a key is never overwritten") from None
        except OSError as exc:
            raise BadKey(f"can't write the key file {path}: {exc.strerror}") from None
