"""What a test session left running: child processes and threads."""

import threading
import time

import psutil


def child_processes() -> set[psutil.Process]:
    """Running descendants of this process; ones that ended and wait to be reaped do not count."""
    return {child for child in psutil.Process().children(recursive=True) if _runs(child)}


def threads() -> set[threading.Thread]:
    """Threads Python knows of."""
    return set(threading.enumerate())


def leftovers(processes: set[psutil.Process], known: set[threading.Thread], grace_s: float = 5.0) -> list[str]:
    """What runs beyond the given processes and threads, once it had `grace_s` to end."""
    deadline = time.monotonic() + grace_s
    while found := _described(child_processes() - processes, threads() - known):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return found


def _described(processes: set[psutil.Process], more_threads: set[threading.Thread]) -> list[str]:
    return [f"process {_command(process)}" for process in processes] + [f"thread {t.name}" for t in more_threads]


def _command(process: psutil.Process) -> str:
    try:
        return f"{process.pid}: {' '.join(process.cmdline())}"
    except psutil.Error:
        return str(process.pid)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
