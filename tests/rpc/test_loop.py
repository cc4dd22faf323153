"""How a busy program runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, subprocess, sys
from vigorl_lib.rpc.loop import run_loop

async def work():
    loop = type(asyncio.get_running_loop()).__module__
    child = "import os; print(os.sched_getscheduler(0))"
    return loop, os.sched_getscheduler(0), subprocess.check_output([sys.executable, "-c", child], text=True).strip()

print(*run_loop(work()))
"""


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this system has no batch class")
def test_it_and_the_engine_that_it_starts_do_not_interrupt_each_other() -> None:
    found = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True).split()
    assert found == ["uvloop", str(os.SCHED_BATCH), str(os.SCHED_BATCH)]
