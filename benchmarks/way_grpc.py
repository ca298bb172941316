"""gRPC: one pickled answer, as other federated learning does it, or a stream of 1 MB ranges.

pickle is here because it is what others do, and only here: what it decodes can execute, so
nothing of BrainTorrent ever uses it.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np

from benchmarks import latency, model
from benchmarks.apart import Prepared
from benchmarks.harness import Pull, Say

TIMEOUT_S = 60.0
_RANGE = 1 << 20
_ANY_SIZE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def serve(place: str, nbytes: int, say: Say) -> None:
    """All three methods; bytes in, bytes out, no .proto."""
    flat = model.values(nbytes, model.THEIRS)
    own = [part.copy() for part in np.array_split(flat, model.TENSORS)]
    body = model.image(nbytes, model.THEIRS)

    def whole(_: bytes, context: object) -> bytes:
        return pickle.dumps(own, protocol=pickle.HIGHEST_PROTOCOL)

    def ranges(_: bytes, context: object) -> Iterator[bytes]:
        for begin in range(0, nbytes, _RANGE):
            yield bytes(body[begin : begin + _RANGE])

    def echo(question: bytes, context: object) -> bytes:
        return question

    methods = {
        "whole": grpc.unary_unary_rpc_method_handler(whole),
        "ranges": grpc.unary_stream_rpc_method_handler(ranges),
        "echo": grpc.unary_unary_rpc_method_handler(echo),
    }
    server = grpc.server(ThreadPoolExecutor(1), options=_ANY_SIZE)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bench", methods)])
    host = place.partition("://")[2].rpartition(":")[0]
    port = server.add_insecure_port(f"{host}:0")
    server.start()
    say(f"tcp://{host}:{port}")
    server.wait_for_termination()


@contextmanager
def pull_pickled(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    own = np.array_split(model.values(nbytes, model.OWN), model.TENSORS)
    with _channel(places) as channel:
        whole = channel.unary_unary("/bench/whole")

        def pull() -> list[model.Floats]:
            theirs = pickle.loads(whole(b"?", timeout=TIMEOUT_S))
            return [0.5 * mine + 0.5 * other for mine, other in zip(own, theirs, strict=True)]

        yield _prepared(pull, channel)


@contextmanager
def pull_stream(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    import torch  # not above: the server starts sooner without

    own = model.tensor(model.values(nbytes, model.OWN))
    merged = torch.empty_like(own)
    with _channel(places) as channel:
        ranges = channel.unary_stream("/bench/ranges")

        def pull() -> list[model.Floats]:
            begin = 0
            for received in ranges(b"?", timeout=TIMEOUT_S):
                theirs = model.tensor(received)
                part = slice(begin, begin + len(theirs))
                torch.lerp(own[part], theirs, 0.5, out=merged[part])
                begin = part.stop
            return [merged.numpy()]

        yield _prepared(pull, channel)


def _prepared(pull: Callable[[], Any], channel: grpc.Channel) -> Prepared:
    echo = channel.unary_unary("/bench/echo")
    return Prepared(pull, lambda: echo(b".", timeout=TIMEOUT_S))


@contextmanager
def ping_echo(places: Sequence[str], nbytes: int) -> Iterator[latency.Pinger]:
    question = bytes(latency.NBYTES)
    under_way: deque[Callable[[], object]] = deque()
    with _channel(places) as channel:
        echo = channel.unary_unary("/bench/echo")

        def ask() -> None:
            under_way.append(echo.future(question, timeout=TIMEOUT_S).result)

        yield latency.Pinger(
            ask, lambda: under_way.popleft()(), lambda: echo(question, timeout=TIMEOUT_S)
        )


def _channel(places: Sequence[str]) -> grpc.Channel:
    (place,) = places
    return grpc.insecure_channel(place.partition("://")[2], options=_ANY_SIZE)
