"""What the command line makes of options before anything else happens."""

from __future__ import annotations

from pathlib import Path

from bt import options
from bt.config import Config


def test_defaults_are_smaller_for_the_demo_cohort_alone() -> None:
    assert options.defaults("scans", None, 1) == options.defaults(None, Path("c"), 1) == Config()
    assert options.defaults(None, None, 1).model.filters == options.DEMO["filters"]


def test_under_mpi_a_rank_is_a_peer_unless_something_says_otherwise(tmp_path: Path) -> None:
    base = options.defaults("scans", None, 3)
    assert (base.federation.peers, base.federation.transport) == (3, "mpi")
    file = tmp_path / "config.toml"
    file.write_text('[federation]\npeers = 5\ntransport = "zmq"\n')
    stated = options.to_config({"config": file}, base).federation
    assert (stated.peers, stated.transport) == (5, "zmq")
    assert options.to_config({"config": file, "peers": 3}, base).federation.peers == 3
