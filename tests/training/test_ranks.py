"""Where one rank fails all end, each with the one cause; two real processes on loopback, without a model."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tests.training.support import free_port

DEADLINE_S = 60.0


def ranks(body: str) -> list[tuple[int, str]]:
    """Status and last line of each of two ranks that run `body` and then meet in a collective."""
    code = textwrap.dedent(
        """
        import os, sys
        import torch
        from vigorl_lib.errors import DataError, VigorlError
        from vigorl_lib.training.ranks import failing_together
        dist = torch.distributed
        dist.init_process_group("gloo")
        rank = dist.get_rank()
        try:
            with failing_together():
                dist.barrier()
                {body}
                dist.all_reduce(torch.ones(1))
        except VigorlError as error:
            sys.exit(f"{{error.reason}}: {{error.message}}")
        finally:
            dist.destroy_process_group()
        """
    ).format(body=body)
    # torchrun's agent holds the store, so that it outlives every rank.
    store = f"import torch, sys; s = torch.distributed.TCPStore('127.0.0.1', {(port := free_port())}, is_master=True, \
wait_for_workers=False); print('ready', flush=True); sys.stdin.read()"
    agent = subprocess.Popen([sys.executable, "-c", store], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdout is not None
    assert agent.stdin is not None
    agent.stdout.readline()
    environment = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
    }
    try:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code], env={**environment, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True
            )
            for rank in range(2)
        ]
        said = [process.communicate(timeout=DEADLINE_S)[1] for process in started]
    finally:
        agent.stdin.close()
        agent.wait()
        agent.stdout.close()
    return [(process.returncode, text.strip().splitlines()[-1]) for process, text in zip(started, said, strict=True)]


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("if rank == 1: raise DataError('no such image', reason='IMAGE_GONE')", "IMAGE_GONE: no such image"),
        pytest.param(
            "if rank == 1: raise MemoryError('the GPU is full')",
            "MemoryError: the GPU is full",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_all_ranks_end_with_the_cause_of_the_one_that_failed(body: str, cause: str) -> None:
    waiting, failed = ranks(body)
    assert failed[0] == waiting[0] == 1
    assert failed[1].endswith(cause)
    assert waiting[1] == f"RANK_FAILED: rank 1 failed: {cause}"


@pytest.mark.slow
def test_a_rank_that_is_killed_is_told_apart_from_one_that_failed() -> None:
    waiting, killed = ranks("if rank == 1: print('here', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)")
    assert killed == (-9, "here")
    assert waiting[0] == 1
    assert waiting[1].startswith("RANK_FAILED: another rank is gone without a word")
