"""Peers as the ranks of an mpirun: Open MPI, MPICH or Intel MPI, whose flags differ.

A rank that dies ends the whole job, as MPI wants it; so does the launcher.
"""

from __future__ import annotations

from pathlib import Path

from launchers.base import Command, LaunchError, Plan
from launchers.local import LocalRun
from launchers.ranks import files, in_order, slots

OPEN_MPI, MPICH, INTEL = "Open MPI", "MPICH", "Intel MPI"
_MARKS = {
    OPEN_MPI: ("open mpi", "openrte", "prterun"),
    INTEL: ("intel(r) mpi",),
    MPICH: ("mpich", "hydra"),  # after Intel's, which has Hydra too
}


def family(version: str) -> str:
    """Whose mpirun it is, by what `mpirun --version` prints. Raises LaunchError."""
    for name, marks in _MARKS.items():
        if any(mark in version.lower() for mark in marks):
            return name
    first = (version.strip().splitlines() or ["nothing"])[0]
    raise LaunchError(
        f"mpirun --version says {first!a:.80}: neither Open MPI, MPICH nor Intel MPI; name "
        "another one in [mpirun] program"
    )


class MpirunLauncher:
    """`script` is where the ranks' script goes; `root`: whether this user is root."""

    def __init__(
        self,
        family: str,
        script: Path,
        *,
        program: str = "mpirun",
        options: tuple[str, ...] = (),
        root: bool = False,
    ) -> None:
        self._family = family
        self._script = script
        if family == INTEL:  # its mpirun is a shell script that hands no signal on
            program = str(Path(program).with_name("mpiexec.hydra"))
        self._program = program
        self._options = options
        self._root = root

    def plan(self, commands: tuple[Command, ...]) -> Plan:
        commands = in_order(commands)
        hosts = slots(commands)
        if hosts and sum(hosts.values()) < len(commands):
            raise LaunchError("mpirun: name the host of every peer, or of none")
        hostfile = self._script.with_name("hostfile")
        written = files(commands, self._script)
        if hosts:
            form = "{} slots={}" if self._family == OPEN_MPI else "{}:{}"
            lines = [form.format(host, count) for host, count in hosts.items()]
            written[hostfile] = "\n".join(lines) + "\n"
        placed = (*self.flags, *(self._placing(hostfile) if hosts else ()), *self._options)
        ranks = ("-n", str(len(commands)), *placed, "sh", str(self._script))
        log = self._script.with_name("mpirun.txt")
        return Plan((Command("mpirun", (self._program, *ranks), log=log),), written)

    @property
    def flags(self) -> tuple[str, ...]:
        """Threads of a rank go where they like, and there may be more ranks than processors."""
        if self._family == OPEN_MPI:
            root = ("--allow-run-as-root",) if self._root else ()
            return (*root, "--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none")
        if self._family == INTEL:
            return ("-genv", "I_MPI_PIN", "0")
        return ("-bind-to", "none")

    def _placing(self, hostfile: Path) -> tuple[str, ...]:
        option = "--hostfile" if self._family == OPEN_MPI else "-f"
        return (option, str(hostfile))

    def start(self, plan: Plan) -> LocalRun:
        return LocalRun(mortal=True).all(plan)
