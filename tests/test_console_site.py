"""What a site is shown."""

from __future__ import annotations

import io

from rich.console import Console

from bt.console_site import print_roster
from bt.roster import Member, Observer, Roster
from transports.keys import KeyPair


def test_what_is_read_aloud_of_a_roster_is_whole_on_a_line() -> None:
    keys = [KeyPair.new().public for _ in range(4)]
    address = f"tcp://{'long.' * 20}example:7301"
    found = Roster(
        {
            "hospital-a": Member("hospital-a", address, (keys[0], keys[1]), 200),
            "hospital-b": Member("hospital-b", None, (keys[2],), 50),
        },
        {"trial-office": Observer("trial-office", (keys[3],), models=True)},
    )
    output = io.StringIO()
    print_roster(Console(file=output, width=40, markup=False), found, ["something"])
    assert output.getvalue().splitlines() == [
        "hospital-a",
        f"  address      {address}",
        f"  public key   {keys[0]}",
        f"  public key   {keys[1]}",
        "  max_samples  200",
        "",
        "hospital-b",
        "  address      none, it connects to the others",
        f"  public key   {keys[2]}",
        "  max_samples  50",
        "",
        "trial-office",
        "  observer     may fetch models",
        f"  public key   {keys[3]}",
        "",
        "look: something",
        f"fingerprint: {found.fingerprint}",
    ]
