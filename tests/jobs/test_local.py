"""Local processes: they die with their parent, and say in one line why they ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vigorl_lib.jobs.local import LocalProcess, ProcessError, Services, wait_all


def python(code: str, tmp_path: Path, name: str = "child") -> LocalProcess:
    return LocalProcess(name, [sys.executable, "-c", code], tmp_path / f"{name}.log")


def gone(pid: int) -> bool:
    """Whether a process has ended; one that waits for its parent to notice counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_failed_process_tells_its_last_words_and_status(tmp_path: Path) -> None:
    process = python('import sys; print(\'{"msg": "no model there"}\'); sys.exit(2)', tmp_path).start()
    with pytest.raises(ProcessError, match="ended with status 2: no model there") as caught:
        process.check()
    assert caught.value.metadata["status"] == "2"


def test_the_first_failure_ends_the_others(tmp_path: Path) -> None:
    sleeper = python("import time; time.sleep(60)", tmp_path, "sleeper").start()
    failing = python("raise SystemExit(3)", tmp_path, "failing").start()
    with pytest.raises(ProcessError, match="failing"):
        wait_all([sleeper, failing])
    assert sleeper.poll() is not None


def test_log_records_skip_what_libraries_print(tmp_path: Path) -> None:
    code = "print('{\"step\": 1}'); print('{not json}'); print('plain'); print('{\"step\": 2}')"
    process = python(code, tmp_path).start()
    process.check()
    assert [record["step"] for record in process.log_records()] == [1, 2]
    assert list(process.log_records()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """A quickstart that was killed with -9 must not leave a trainer behind that writes into the same run."""
    code = (
        "import sys, time; from pathlib import Path; from vigorl_lib.jobs.local import LocalProcess\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        f"child = LocalProcess('c', sleep, Path({str(tmp_path)!r}) / 'c.log')\n"
        "print(child.start().pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while not gone(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gone(child)


def test_a_service_with_wrong_settings_is_one_line(tmp_path: Path) -> None:
    with Services(tmp_path) as services:
        services.launch("reward", "reward", {"nonsense": 1})
        with pytest.raises(ProcessError, match="unknown key 'nonsense'") as caught:
            services.wait_ready("reward")
    assert caught.value.metadata["status"] == "2"
