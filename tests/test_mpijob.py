"""bt train under mpirun: what rank 0 refuses before it looks for scans."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from bt import mpijob
from bt.config import Config, ConfigError, change


@pytest.mark.parametrize(
    ("ranks", "settings", "says"),
    [
        (1, {}, "start it as mpirun -n 5 bt train"),
        (1, {"peers": 3}, "start it as mpirun -n 3 bt train"),
        (1, {"peers": 1}, "start it as mpirun -n 2 bt train"),
        (4, {}, "5 peers, .* 4 ranks: use mpirun -n 5, or --peers 4"),
        (5, {"transport": "zmq"}, "transport zmq under mpirun: .* --transport mpi"),
    ],
)
def test_what_does_not_fit_the_ranks_is_refused(
    ranks: int, settings: dict[str, Any], says: str
) -> None:
    config = change(Config(), {"transport": "mpi", "path": "/nowhere", **settings})
    with pytest.raises(ConfigError, match=says):
        mpijob._prepare(config, None, ranks, Console(quiet=True))
