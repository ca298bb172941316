"""ZeroMQ as it is used at first, and the bare echo that no ping over it can beat.

naive: the state dict is encoded for every request, decoded, and merged into new tensors.
frame: encoded once, one big frame, looked at in place, merged flat. With curve:// encrypted.
ranges: the product's own calls and nothing else: ranges of the same size, the same number on their
    way, the same memory settings, checksum, check of the values and merge, but no protocol, no
    messages, no peers. What the product can't beat.

torch is imported where it is needed: servers that do without start sooner.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import safetensors.numpy
import zmq
from zmq import Frame

from benchmarks import latency, model
from benchmarks.apart import Prepared
from benchmarks.harness import Pull, Say
from transports.door import Door
from transports.malloc import keep_freed_memory

TIMEOUT_MS = 60_000
_ASKED = struct.Struct("<qq")


def serve_naive(place: str, nbytes: int, say: Say) -> None:
    import safetensors.torch

    own = model.tensors(model.tensor(model.values(nbytes, model.THEIRS)))
    with _listening(zmq.REP, place, say) as replies:
        while True:
            asked = replies.recv()
            replies.send(asked if asked == b"." else safetensors.torch.save(own))


@contextmanager
def pull_naive(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    import safetensors.torch

    own = model.tensors(model.tensor(model.values(nbytes, model.OWN)))
    with _connected(zmq.REQ, places) as requests:

        def pull() -> list[model.Floats]:
            theirs = []
            for request in requests:
                request.send(b"?")
                theirs.append(safetensors.torch.load(request.recv()))
            share = 1 / (1 + len(theirs))
            merged = {
                name: share * sum((weights[name] for weights in theirs), start=mine)
                for name, mine in own.items()
            }
            return [part.numpy() for part in merged.values()]

        yield Prepared(pull, lambda: _greet(b".", requests))


def serve_frame(place: str, nbytes: int, say: Say) -> None:
    encoded = safetensors.numpy.save({"flat": model.values(nbytes, model.THEIRS)})
    with _listening(zmq.REP, place, say) as replies:
        while True:
            asked = replies.recv()
            replies.send(asked if asked == b"." else encoded, copy=False)


@contextmanager
def pull_frame(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    import torch

    own = model.tensor(model.values(nbytes, model.OWN))
    merged = torch.empty_like(own)
    with _connected(zmq.REQ, places) as requests:

        def pull() -> list[model.Floats]:
            mean = own
            for i, request in enumerate(requests, start=1):
                request.send(b"?")
                frame = request.recv(copy=False)
                assert isinstance(frame, Frame)
                header = 8 + int.from_bytes(frame.buffer[:8], "little")
                mean = torch.lerp(
                    mean, model.tensor(frame.buffer[header:]), 1 / (i + 1), out=merged
                )
            return [merged.numpy()]

        yield Prepared(pull, lambda: _greet(b".", requests))


def serve_ranges(place: str, nbytes: int, say: Say) -> None:
    keep_freed_memory()
    served = model.image(nbytes, model.THEIRS)
    with _listening(zmq.ROUTER, place, say, Door(nbytes).bind) as router:
        while True:
            asker, question = router.recv_multipart()
            begin, length = _ASKED.unpack(question)
            router.send(asker, zmq.SNDMORE)
            router.send(served[begin : begin + length], copy=False)


@contextmanager
def pull_ranges(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    import torch
    import xxhash

    from bt.transfer import LARGEST_RANGE, MOST_CREDIT
    from bt.weights import FlatWeights, squares
    from transports.image import digest

    keep_freed_memory()
    # in memory such as the product's: it has huge pages
    flat = {"flat": model.tensor(model.values(nbytes, model.OWN))}
    (own,), (merged,) = (FlatWeights.of(flat).tensors().values() for _ in range(2))
    wanted = digest(model.image(nbytes, model.THEIRS))
    with _connected(zmq.DEALER, places) as (dealer,):

        def pull() -> list[model.Floats]:
            asked = begin = 0
            checksum = xxhash.xxh3_128()
            while begin < nbytes:
                while asked < nbytes and asked - begin < MOST_CREDIT:
                    length = min(LARGEST_RANGE, nbytes - asked)
                    dealer.send(_ASKED.pack(asked, length))
                    asked += length
                frame = dealer.recv(copy=False)
                assert isinstance(frame, Frame)
                checksum.update(frame.buffer)
                theirs = model.tensor(frame.buffer)
                part = slice(begin // 4, begin // 4 + len(theirs))
                if math.isnan(squares(theirs)):
                    raise ValueError("absurd values")
                torch.lerp(own[part], theirs, 0.5, out=merged[part])
                begin += theirs.nbytes
            if checksum.hexdigest() != wanted:
                raise ValueError("damaged on the way")
            return [merged.numpy()]

        yield Prepared(pull, lambda: _greet(_ASKED.pack(0, 0), [dealer]))


def serve_echo(place: str, nbytes: int, say: Say) -> None:
    """Every message back to where it came from."""
    with _listening(zmq.ROUTER, place, say) as router:
        while True:
            router.send_multipart(router.recv_multipart())


@contextmanager
def ping_echo(places: Sequence[str], nbytes: int) -> Iterator[latency.Pinger]:
    with _connected(zmq.DEALER, places) as (dealer,):
        question = bytes(latency.NBYTES)

        def ask() -> None:
            dealer.send(question)

        yield latency.Pinger(ask, dealer.recv)


def _greet(question: bytes, others: Sequence[zmq.Socket[bytes]]) -> None:
    """A question there, and next to nothing back."""
    for other in others:
        other.send(question)
        other.recv()


@contextmanager
def _listening(
    kind: int,
    place: str,
    say: Say,
    bind: Callable[[zmq.Socket[bytes], str], None] = lambda made, address: made.bind(address),
) -> Iterator[zmq.Socket[bytes]]:
    """A bound socket; a curve:// place is said with its public key: curve://HOST:PORT#KEY."""
    scheme, _, address = place.partition("://")
    with zmq.Context() as context, context.socket(kind) as made:
        if scheme == "curve":
            public, made.curve_secretkey = zmq.curve_keypair()
            made.curve_server = True
            bind(made, f"tcp://{address}")
            port = made.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2]
            say(f"curve://{address.rpartition(':')[0]}:{port}#{public.decode()}")
        else:
            bind(made, place)
            say(made.getsockopt_string(zmq.LAST_ENDPOINT))
        yield made


@contextmanager
def _connected(kind: int, places: Sequence[str]) -> Iterator[list[zmq.Socket[bytes]]]:
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        connected = []
        for place in places:
            made = stack.enter_context(context.socket(kind))
            made.linger = 0
            made.rcvtimeo = made.sndtimeo = TIMEOUT_MS
            scheme, _, address = place.partition("://")
            if scheme == "curve":
                address, _, key = address.partition("#")  # a key may hold further ones
                made.curve_serverkey = key.encode()
                made.curve_publickey, made.curve_secretkey = zmq.curve_keypair()
                scheme = "tcp"
            made.connect(f"{scheme}://{address}")
            connected.append(made)
        yield connected
