"""Local processes: start the services or a training stage on this machine and end them again.

The same programs that containers run in a cluster. A child dies with its parent (also when the
parent is killed with -9), so that a command started again never meets a left-over of itself. This
module starts, waits and ends; it knows nothing of what the programs do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from vigorl_lib.errors import VigorlError

START_TIMEOUT_S = 120.0
"""A service must print its address within this time; the slowest loads a model."""
STOP_TIMEOUT_S = 10.0
"""Grace after SIGTERM before SIGKILL."""

_DIE_WITH_PARENT = """\
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class ProcessError(VigorlError, RuntimeError):
    """A local process ended or did not start."""

    category = "process"
    infrastructure = True


def _dying_with_parent(command: Sequence[str]) -> list[str]:
    """`command` behind a moment of Python that ties it to this process; elsewhere than on Linux, `command` itself.

    Not `preexec_fn`: that forks this process with its threads, and gRPC's handlers of a fork can abort the child.
    """
    if sys.platform != "linux":
        return list(command)  # a killed parent leaves its children to be ended by hand
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]


@dataclass
class LocalProcess:
    """One child process; its output goes to `log`, or to where ours goes."""

    name: str
    command: Sequence[str]
    log: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None
    _log_file: BinaryIO | None = None
    _read_bytes: int = 0

    def start(self) -> LocalProcess:
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._log_file = self.log.open("ab")
            self._read_bytes = self._log_file.tell()
        self._process = subprocess.Popen(
            _dying_with_parent(self.command),
            stdout=self._log_file,
            stderr=None if self._log_file is None else subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self.environment},
            start_new_session=True,
        )
        return self

    @property
    def pid(self) -> int:
        return self._running().pid

    def poll(self) -> int | None:
        return self._running().poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Exit status. Raises ProcessError when the time is over."""
        try:
            return self._running().wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{self.name} did not end within {timeout_s} s", reason="PROCESS_TIMEOUT") from None

    def check(self) -> None:
        """Wait for a clean end. Raises ProcessError with the last lines of the log otherwise."""
        status = self.wait()
        if status != 0:
            raise ProcessError(
                f"{self.name} ended with status {status}{self.last_words()}",
                reason="PROCESS_FAILED",
                process=self.name,
                status=status,
            )

    def last_words(self) -> str:
        """The last line of the log and where the log is, for the end of a message."""
        if self.log is None or not self.log.exists():
            return ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f": {_message(lines[-1])[:500] if lines else 'no output'} (log: {self.log})"

    def log_records(self) -> Iterator[dict[str, Any]]:
        """JSON lines that the process has logged and that were not read before."""
        if self.log is None:
            return
        with self.log.open("rb") as log:
            log.seek(self._read_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read_bytes += len(line)
                if (record := _record(line)) is not None:
                    yield record

    def stop(self) -> None:
        """SIGTERM, then SIGKILL; returns once the process is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log_file is not None:
            self._log_file.close()
            self._log_file = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ProcessError(f"{self.name} was not started", reason="PROCESS_NOT_STARTED")
        return self._process


def _record(line: bytes | str) -> dict[str, Any] | None:
    """A line of a JSON log; None for what libraries print between."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _message(line: str) -> str:
    record = _record(line)
    return line if record is None else str(record.get("msg", line))


def wait_all(processes: Sequence[LocalProcess], on_poll: Callable[[], None] | None = None) -> None:
    """Wait until all have ended well. The first that fails ends the others; raises its ProcessError."""
    try:
        while any(process.poll() is None for process in processes):
            for process in processes:
                if process.poll() not in (None, 0):
                    process.check()
            if on_poll is not None:
                on_poll()
            time.sleep(0.1)
        for process in processes:
            process.check()
    finally:
        for process in processes:
            process.stop()


@dataclass
class Services:
    """Local services, started together and ended in reverse order.

    `folder` holds per service `<name>.json` (its configuration), `<name>.address` (written by the
    service once it listens) and `<name>.log`.
    """

    folder: Path
    processes: dict[str, LocalProcess] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)

    def launch(
        self, name: str, module: str, config: Mapping[str, Any], *, listen: str = "127.0.0.1:0", log_level: str = ""
    ) -> None:
        """Start `python -m vigorl_services.<module>`; `wait_ready` tells its address."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config_path, address_path = self.folder / f"{name}.json", self.folder / f"{name}.address"
        config_path.write_text(json.dumps(config, indent=2), encoding="utf-8")
        address_path.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"vigorl_services.{module}", "--config", str(config_path)]
        command += ["--listen", listen, "--address-file", str(address_path)]
        if log_level:
            command += ["--log-level", log_level]
        self.processes[name] = LocalProcess(name, command, self.folder / f"{name}.log").start()

    def wait_ready(self, name: str, timeout_s: float = START_TIMEOUT_S) -> str:
        """Address of a launched service, once it is ready to serve."""
        process, address_path = self.processes[name], self.folder / f"{name}.address"
        deadline = time.monotonic() + timeout_s
        while not address_path.exists():
            status = process.poll()
            if status is not None:
                raise ProcessError(
                    f"service {name} ended with status {status}{process.last_words()}",
                    reason="SERVICE_FAILED",
                    service=name,
                    status=status,
                )
            if time.monotonic() > deadline:
                raise ProcessError(f"service {name} was not ready after {timeout_s:.0f} s", reason="SERVICE_TIMEOUT")
            time.sleep(0.05)
        self.addresses[name] = address_path.read_text(encoding="utf-8").strip()
        return self.addresses[name]

    def wait(self) -> None:
        """Block until a service ends, which none should. Raises ProcessError."""
        while True:
            for process in self.processes.values():
                if process.poll() is not None:
                    process.check()
                    return
            time.sleep(0.5)

    def stop(self, name: str) -> None:
        self.processes.pop(name).stop()
        self.addresses.pop(name, None)

    def __enter__(self) -> Services:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self.processes)):
            self.stop(name)
