"""What `vigorl quickstart` refuses before it works, and that two never work in one folder at once."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vigorl_lib.cli.common import resolve
from vigorl_lib.cli.quickstart import _alone, _Story
from vigorl_lib.errors import ConfigError

RUN = [sys.executable, "-m", "vigorl_lib.cli.main", "quickstart"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--root", "s3://bucket/x"], "keeps its run in a folder"),
        (["--run-id", "second"], "run_id"),
        (["--set", "task.temperature=0.5"], "--stage-set"),
    ],
)
def test_settings_that_would_not_reach_the_stages_are_refused(arguments: list[str], told: str, tmp_path: Path) -> None:
    result = subprocess.run([*RUN, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 2
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_continued_with_another_seed(tmp_path: Path) -> None:
    """A finished seed 0 must not answer for seed 1."""
    _Story(resolve("quickstart", (f"root={tmp_path}",)), {}, "transformers").claim()
    _Story(resolve("quickstart", (f"root={tmp_path}",)), {}, "transformers").claim()
    with pytest.raises(ConfigError, match="other settings"):
        _Story(resolve("quickstart", (f"root={tmp_path}", "seed=1")), {}, "transformers").claim()


def test_a_second_quickstart_waits_for_the_first(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vigorl_lib.cli.quickstart import _alone\n"
        f"with _alone(Path({str(tmp_path)!r})): print('in', flush=True)"
    )
    with _alone(tmp_path):
        second = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert second.stderr is not None
        assert "waiting for it to end" in second.stderr.readline()
        time.sleep(0.2)
        assert second.poll() is None
    output, _ = second.communicate(timeout=20)
    assert output == "in\n"
    with (tmp_path / "quickstart.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
