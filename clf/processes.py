"""The processes that do one command together: who is who, what they agree on before they can talk, how they end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store

from clf.errors import Ended, UserError, printable, said_of
from clf.lifeline import Cause, First, Lifeline, Other

_CALLED = "CLF_CALLED"
"""What a process that Lightning's launcher starts is told by the first one of its machine, as JSON."""

_PATIENCE = timedelta(minutes=10)  # for the other machines to start
_SECONDS_FOR_A_CAUSE = 10.0

Value = TypeVar("Value")


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is.

    Args:
        rank: Number among all, from 0.
        local_rank: Number on its machine.
        node: Number of its machine.
        size: How many there are; 0 where that is not known yet.
        starter: What started them: ``torchrun``, ``srun``, ``clf`` (Lightning's launcher), or a person on each machine.
    """

    rank: int = 0
    local_rank: int = 0
    node: int = 0
    size: int = 1
    starter: str = "a person"

    @property
    def who(self) -> str:
        """What a user is to call it."""
        where = f" on {socket.gethostname()}" if self.node else ""
        return (
            f"rank {self.rank} of {self.size}{where}" if self.size else f"the first process of node {self.node}{where}"
        )


def find_place() -> Place:
    """Read from the environment which of the processes this one is."""
    env = os.environ
    if TorchElasticEnvironment.detect():
        return _place("torchrun", "RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE")
    if SLURMEnvironment.detect() and int(env["SLURM_NTASKS"]) > 1:
        return _place("srun", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS")
    if _CALLED in env:
        called = json.loads(env[_CALLED])
        local = int(env["LOCAL_RANK"])
        return Place(called["node"] * called["local_size"] + local, local, called["node"], called["size"], "clf")
    if "NODE_RANK" in env and "MASTER_ADDR" in env:
        node = int(env["NODE_RANK"])
        return Place(rank=node, node=node, size=0)  # the rank is a guess, but for the first
    return Place()


def _place(starter: str, *names: str) -> Place:
    rank, local_rank, node, size = (int(os.environ[name]) for name in names)
    return Place(rank, local_rank, node, size, starter)


class Processes:
    """This process among those that do a command together; most of the time there is but one.

    Processes that a launcher or a person starts know nothing of each other at first. The first one decides what they
    have to agree on (`agreed`) and tells the others by the store through which their process group will meet.

    Args:
        place: Which one this is.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.line: Lifeline | None = None
        self.children: list[subprocess.Popen[bytes]] = []
        self.tidy: Callable[[], object] = lambda: None
        self._agreed: dict[str, Any] = {}
        self._store: Store | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that decides, writes and speaks."""
        return self.place.rank == 0

    @property
    def external(self) -> bool:
        """Whether a launcher has started all of them, so that it decides how many there are."""
        return self.place.starter in ("torchrun", "srun") and self.place.size > 1

    def meet(self) -> None:
        """Find the others, where there are any already.

        Raises:
            UserError: If the first process cannot be reached.
        """
        # Until a Trainer knows better, Lightning takes it from LOCAL_RANK.
        setattr(rank_zero_only, "rank", self.place.rank)  # noqa: B010 - Lightning hangs it on a function
        try:
            if _CALLED in os.environ and not self.external:
                called = json.loads(os.environ[_CALLED])
                self._agreed = called["agreed"]
                self.line = self._line_to(called["address"])
            elif self.external or not self.place.size:
                self._store = _open_store(first=self.first)
                if self.first:
                    patience = 0.0 if self.external else 1.0
                    self.line = First(os.environ["MASTER_ADDR"], patience=patience, said=self._say, forced=self._forced)
                    self._store.set("address", self.line.address)
                else:
                    self.line = self._line_to(self._store.get("address").decode())
                if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
                    self._meet_elsewhere()
        except (OSError, DistError) as error:
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise UserError(
                f"{self.place.who} cannot reach the first process at {where}; "
                "it may have failed before, or MASTER_ADDR and MASTER_PORT are not the same everywhere"
            ) from error

    def _meet_elsewhere(self) -> None:
        """Have the process group meet in a new store: in torch 2.14, torchrun's still says where the dead were."""
        if self.first:
            self._new_store = _tcp_store(port=0, serves=True)
        os.environ["MASTER_PORT"] = str(self.agreed("port", lambda: self._new_store.port))
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"

    def _line_to(self, address: str) -> Other:
        return Other(address, who=self.place.who, said=self._say, forced=self._forced)

    def agreed(self, name: str, decide: Callable[[], Value]) -> Value:
        """Have the first process decide something, for all.

        Args:
            name: What it is about.
            decide: Called in the first process; returns what JSON can hold.
        """
        if self.first:
            self._agreed[name] = decide()
            if self._store is not None:
                self._store.set(name, json.dumps(self._agreed[name]))
        elif name not in self._agreed:
            assert self._store is not None, f"the first process has not decided on {name}"
            self._agreed[name] = json.loads(self._store.get(name))
        value: Value = self._agreed[name]
        return value

    def counts(self, trainer: dict[str, Any]) -> dict[str, int]:
        """Say how many devices and machines the trainer has, where a launcher has settled that.

        Args:
            trainer: Its configuration.
        Raises:
            UserError: If several machines are asked for, and nothing says which one this is.
        """
        if not self.external:
            several, numbered = trainer["num_nodes"] > 1, not self.place.size or self.place.starter == "clf"
            if several and not numbered:
                raise UserError(
                    f"trainer.num_nodes={trainer['num_nodes']}: start clf on each machine by torchrun or srun, or with "
                    "NODE_RANK (from 0), MASTER_ADDR and MASTER_PORT in the environment"
                )
            if not several and not self.place.size:
                raise UserError("NODE_RANK and MASTER_ADDR are set, but trainer.num_nodes is 1; say how many there are")
            return {}
        local = int(os.environ["LOCAL_WORLD_SIZE" if self.place.starter == "torchrun" else "SLURM_NTASKS_PER_NODE"])
        return {"devices": local, "num_nodes": self.place.size // local}

    def call(self, *, local_size: int, size: int) -> None:
        """Prepare for processes that this one is about to start: they inherit what they need to know."""
        if self.line is None:
            self.line = First("127.0.0.1", patience=1.0, said=self._say, forced=self._forced)
        called = {"node": self.place.node, "local_size": local_size, "size": size, "agreed": self._agreed}
        os.environ[_CALLED] = json.dumps({**called, "address": self.line.address})

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """End all where one ends, and say once why.

        Raises:
            Ended: Where the reason is another process's.
        """
        try:
            yield
        except BaseException as error:
            if self.line is None:
                raise
            self._end(error)
            raise
        else:
            if self.line is not None:
                self.line.leave(Cause("", 0))
                self.line.close()
        finally:
            os.environ.pop(_CALLED, None)

    def _end(self, error: BaseException) -> None:
        assert self.line is not None
        own = Cause(*said_of(error))
        asked = isinstance(error, KeyboardInterrupt | SystemExit)
        heard = None if asked and self.first else self.line.cause(_SECONDS_FOR_A_CAUSE if _is_consequence(error) else 0)
        self.line.leave(own)
        if heard is None and self.first:
            self._end_children()
        elif heard is None and own.message and not self.line.orphaned:
            raise Ended(own.message if self.place.local_rank == 0 else "", own.code) from error  # the first speaks
        elif heard is not None:
            self._end_children()
            raise Ended("", heard.code) from error

    def _say(self, cause: Cause) -> None:
        """Say why all end, once on each machine."""
        orphaned = self.line is not None and self.line.orphaned
        if cause.message and (self.place.local_rank == 0 or (orphaned and self.place.rank == 1)):
            print(f"clf: {printable(cause.message, lines=True)}", file=sys.stderr)

    def _forced(self) -> None:
        self.tidy()
        self._end_children(seconds=0)

    def _end_children(self, seconds: float = 3.0) -> None:
        """Give the processes that this one has started some time to end, then end them."""
        until = time.monotonic() + seconds
        for child in self.children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, until - time.monotonic()))
        for child in self.children:
            if child.poll() is None:
                child.kill()


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher, with eyes on the processes that it starts.

    Lightning looks every five seconds, and where one has died ends all by SIGKILL, its own process included, in
    silence.

    Args:
        processes: This process among them.
        theirs: Lightning's launcher, whose place it takes.
    """

    def __init__(self, processes: Processes, theirs: _SubprocessScriptLauncher) -> None:
        super().__init__(theirs.cluster_environment, theirs.num_processes, theirs.num_nodes)
        self._processes = processes

    def _call_children_scripts(self) -> None:
        ours, count = self._processes, self.num_processes
        ours.call(local_size=count, size=count * self.num_nodes)
        numbered = "NODE_RANK" in os.environ
        super()._call_children_scripts()
        if not numbered:
            os.environ.pop("NODE_RANK")  # the next command in this process must not take itself for one of several
        ours.children, self.procs = self.procs, []  # an observer without children looks at nothing
        threading.Thread(target=self._watch, daemon=True).start()

    def kill(self, signum: Any) -> None:
        """Send a signal to those that live."""
        if signum == signal.SIGKILL and self._processes.line is not None:  # so Lightning answers Ctrl-C
            self._processes.line.leave(Cause(*said_of(KeyboardInterrupt())))
        for child in self._processes.children:
            child.send_signal(signum)

    def _watch(self) -> None:
        children, line = self._processes.children, self._processes.line
        assert line is not None
        while any(child.poll() is None for child in children) and not any(child.returncode for child in children):
            time.sleep(0.2)
        for number, child in enumerate(children, start=1):
            if child.returncode:
                rank = self._processes.place.node * self.num_processes + number
                said = f"rank {rank} of {self.num_processes * self.num_nodes}"
                if child.returncode > 0:
                    time.sleep(2.0)  # its own words are on their way
                stopped = Cause(*said_of(KeyboardInterrupt()))  # Ctrl-C reaches all, but not whoever waits inside torch
                by_itself = Cause(f"{said} {_how_it_ended(child.returncode)}", 1)
                line.hear(stopped if child.returncode == stopped.code else by_itself)


def _how_it_ended(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}; what it printed stands above"
    because = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{because}"


def watch_over(trainer: Trainer, processes: Processes) -> None:
    """Put our launcher in the place of Lightning's, where it starts processes."""
    theirs = trainer.strategy.launcher
    if isinstance(theirs, _SubprocessScriptLauncher):
        trainer.strategy._launcher = Launcher(processes, theirs)


def from_first(value: Value) -> Value:
    """Take what the first process has, once the process group stands; all have to call it.

    Args:
        value: What this process has; anything that can be pickled.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def _open_store(*, first: bool) -> Store:
    """Open the store at MASTER_ADDR:MASTER_PORT by which the process group will meet, too."""
    if TorchElasticEnvironment.detect():
        environment: Any = TorchElasticEnvironment()
    elif "SLURM_NTASKS" in os.environ:
        if (count := os.environ["SLURM_NTASKS"]) != "1" and "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise UserError(
                f"{count} tasks of SLURM, and nothing says how many on a node; add --ntasks-per-node to srun"
            )
        environment = SLURMEnvironment()
    else:
        environment = None
    if environment is not None:
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    if "MASTER_PORT" not in os.environ:
        raise UserError("NODE_RANK and MASTER_ADDR are set, but not MASTER_PORT; give the same free port everywhere")
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = _tcp_store(port=int(os.environ["MASTER_PORT"]), serves=first and not agents)
    return PrefixStore(f"clf/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _tcp_store(*, port: int, serves: bool) -> Any:
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        port,
        is_master=serves,
        timeout=_PATIENCE,
        wait_for_workers=False,
        multi_tenant=True,  # the process group opens it again
    )


def _is_consequence(error: BaseException) -> bool:
    """Whether an error says no more than that another process is gone."""
    words = ("gloo", "nccl")
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )
