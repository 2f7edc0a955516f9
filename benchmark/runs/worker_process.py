"""A worker's life in its process: do tasks until there are no more, or the parent is gone.

Nothing heavy is imported before `serve` watches the parent: a run that is killed while its workers
start leaves none.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import NoReturn

from benchmark.runs.machine import VISIBLE, Slot


def serve(connection: Connection, slot: Slot = "") -> None:
    """Receive a workplace, then tasks, and send what happens; return when there are no more.

    The process has a group of its own, to which belongs whatever a job starts, and sees the GPU
    `slot` alone.
    """
    os.setpgrp()
    if slot:
        os.environ[VISIBLE] = slot  # before CUDA is started, which reads it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is our parent's to see to
    threading.Thread(target=_end_with_parent, name="watch", daemon=True).start()
    from benchmark.runs.attempt import Event
    from benchmark.runs.score import one_thread

    one_thread()
    _keep_bars_here()

    def tell(event: Event) -> None:
        try:
            connection.send(event)
        except OSError:  # nobody listens any more
            end()

    try:
        workplace = connection.recv()
        while True:
            task = connection.recv()
            tell(workplace.attempt(task, tell))
    except (EOFError, ConnectionResetError):
        return


def _keep_bars_here() -> None:
    """Have tqdm, whose bars models' libraries show, lock them within this process alone.

    Its own lock is for several processes: a semaphore of the system, which nobody puts away when
    this process is killed, and of which Python complains when the run ends.
    """
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    try:
        assert parent is not None
        parent.join()
    finally:  # also if a job closed what tells us
        end()


def end() -> NoReturn:
    """End this process and what jobs have started in its group, at once."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)
