"""A checkpoint for another number of ranks, by DeepSpeed's universal format: every weight and its moments by name.

`once_per_machine` is for what all ranks of a machine read and one of them must bring: a download, a conversion.
"""

from __future__ import annotations

import os
import socket
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path

UNIVERSAL = "universal"
"""Name of the folder that `to_universal` makes, DeepSpeed's tag for it."""


@contextmanager
def once_per_machine(fill: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary folder that the first rank of each machine fills and all ranks of that machine read.

    All ranks call it, and none leaves before all are done. Where `fill` fails, that rank raises, and its launcher
    ends the others.
    """
    import torch

    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    with tempfile.TemporaryDirectory() if first else nullcontext("") as mine:
        if first:
            fill(Path(mine))
        told: list[tuple[str, str]] = [("", "")] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(told, (socket.gethostname(), mine))
        theirs = [folder for host, folder in told if folder and host == socket.gethostname()]
        yield Path(mine or theirs[0])
        torch.distributed.barrier()


def to_universal(source: Path, target: Path) -> None:
    """Convert a folder of DeepSpeed's files (ZeRO 1 to 3) into `target/universal`.

    Takes the memory of one rank's optimiser state, and disk for three copies of the weights in fp32 twice over.
    """
    from deepspeed.checkpoint.ds_to_universal import main

    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        main(
            Namespace(
                input_folder=str(source),
                output_folder=str(target / UNIVERSAL),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                # ZeRO 1 and 2 leave out what a model without parallel layers has nothing to say about.
                inject_missing_state=True,
            )
        )
