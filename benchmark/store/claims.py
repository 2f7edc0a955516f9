"""Who is at work on what, where several processes share a run directory (`run --shard`).

    claims = Claims(Path("runs/pocket-1a2b3c4d"))
    with claims.kept_alive():
        if claims.take("jobs/my-method/dog-s0"):
            ...
            claims.give_back("jobs/my-method/dog-s0")

A claim is a file that comes into being by a hard link, which is one step on NFS too. Its owner
touches it as long as it lives; who finds it untouched for VOID_AFTER seconds, or its owner dead on
the same machine, takes it over. Times are those of the file system, so clocks need not agree.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.api import UserError

FOLDER = "claims"
#: Where the processes that are at work have claims of their own.
PROCESSES = "processes"
VOID_AFTER = 600.0  #: seconds
#: How a file system says that it has no hard links.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True)
class Owner:
    """A process on a machine."""

    host: str
    machine: str  #: which one that is, and which container: their names need not differ
    process: int
    since: str  #: when it began, as the machine says: numbers of processes are used again
    name: str  #: of its claims alone

    @classmethod
    def this(cls) -> Owner:
        """This process."""
        process = os.getpid()
        since = _beginning(process)
        return cls(platform.node(), _machine(), process, since, uuid.uuid4().hex)

    def dead(self) -> bool:
        """Whether it ran on this machine and does no more."""
        return self.machine == _machine() and self.since != _beginning(self.process)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def _owner(text: str) -> Owner | None:
    """Whose claim `text` is; None if that cannot be read."""
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _machine() -> str:
    """What no other machine has, nor another container of this one, whose processes are numbered
    anew; off Linux the machine's name."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return platform.node()


def _beginning(process: int) -> str:
    """When a process of this machine began; empty if there is none, or off Linux."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


@dataclass
class Claims:
    """The claims in a run directory, and those among them that are this process's."""

    directory: Path
    void_after: float = VOID_AFTER
    owner: Owner = field(default_factory=Owner.this)
    _mine: set[str] = field(default_factory=set)

    def take(self, name: str) -> bool:
        """Whether `name`, a path without a suffix, is this process's from now on."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = path.with_name(f"{path.name}.{self.owner.name}.tmp")
        mine.write_text(json.dumps(vars(self.owner)))
        try:
            if self._linked(mine, path) or (self._removed(path, mine) and self._linked(mine, path)):
                self._mine.add(name)
                return True
            return False
        finally:
            mine.unlink(missing_ok=True)

    def _linked(self, mine: Path, path: Path) -> bool:
        try:
            os.link(mine, path)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise UserError(
                f"--shard: the disk of {self.directory} knows no hard links, by which processes "
                "tell who is at what: choose an --out on another disk, or run without --shard"
            ) from error
        return mine.stat().st_nlink > 1  # what NFS answers may be lost, and the link be there

    def _removed(self, path: Path, mine: Path) -> bool:
        """Whether the claim at `path` was void, and is gone; `mine` was written just now."""
        try:
            found = path.read_text()
            if not self._void(path, found, mine.stat().st_mtime):
                return False
            aside = path.with_name(f"{path.name}.{self.owner.name}.void.tmp")
            path.rename(aside)  # of several that try, one
        except FileNotFoundError:  # given back, or taken over by another
            return True
        if aside.read_text() != found:  # another was quicker, and this is its new claim
            with suppress(FileExistsError):
                os.link(aside, path)
            aside.unlink()
            return False
        aside.unlink()
        return True

    def _void(self, path: Path, found: str, now: float) -> bool:
        owner = _owner(found)
        dead = owner is not None and owner.dead()
        return dead or now - path.stat().st_mtime > self.void_after

    def give_back(self, name: str) -> None:
        """`name` is done, or nobody's again; a claim that was taken over stays the other one's."""
        self._mine.discard(name)
        if self._holds(name):
            self._path(name).unlink(missing_ok=True)

    def _holds(self, name: str) -> bool:
        """Whether the claim is still this process's."""
        try:
            return _owner(self._path(name).read_text()) == self.owner
        except FileNotFoundError:
            return False

    def now(self) -> float:
        """Seconds, by the clock of the disk."""
        clock = self.directory / FOLDER / f"{self.owner.name}.tmp"
        clock.parent.mkdir(parents=True, exist_ok=True)
        clock.touch()
        now = clock.stat().st_mtime
        clock.unlink()
        return now

    def others(self) -> dict[str, str]:
        """name -> its owner, in words, of the claims of others that are not void."""
        folder, found = self.directory / FOLDER, {}
        if not folder.is_dir():
            return {}
        now = self.now()
        for path in sorted(folder.rglob("*.claim")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            with suppress(FileNotFoundError):
                text = path.read_text()
                if name not in self._mine and not self._void(path, text, now):
                    found[name] = str(_owner(text) or "somebody")
        return found

    def tidy(self) -> None:
        """Remove the claims that are void, and what the dead had begun to write of others.

        Nobody else may be taking any.
        """
        now = self.now()
        for path in (self.directory / FOLDER).rglob("*.*"):
            with suppress(FileNotFoundError):
                if path.is_file() and self._void(path, path.read_text(), now):
                    path.unlink()

    def processes(self) -> list[str]:
        """The other processes that are at work, in words."""
        found = self.others()
        return [who for name, who in found.items() if name.startswith(f"{PROCESSES}/")]

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Touch what is this process's meanwhile; give all of it back at the end."""
        stop = threading.Event()

        def touch() -> None:
            while not stop.wait(self.void_after / 20):
                for name in [*self._mine]:
                    with suppress(OSError):  # the disk does not answer now: the next time
                        if self._holds(name):
                            os.utime(self._path(name))

        thread = threading.Thread(target=touch, name="claims", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            for name in [*self._mine]:
                with suppress(OSError):  # a disk that is gone; the claim is void before long
                    self.give_back(name)

    def _path(self, name: str) -> Path:
        return self.directory / FOLDER / f"{name}.claim"


def check_alone(directory: Path) -> None:
    """Raise UserError if processes are at work on shards of what lies in `directory`."""
    if others := Claims(directory).processes():
        raise UserError(
            f"{', '.join(others[:3])} {'are' if len(others) > 1 else 'is'} at work in {directory} "
            "with --shard: wait until they end, or join them with --shard"
        )
