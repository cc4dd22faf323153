"""Start-up of an engine made visible: a line every few seconds, since loading takes from seconds to many minutes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vigorl_lib.policy.config import PolicyConfig

EVERY_S = 5.0

log = logging.getLogger(__name__)


@contextmanager
def loading_progress(config: PolicyConfig) -> Iterator[None]:
    """Say that the engine loads for as long as the block runs, and how long it took if that went well."""
    begin, ended = time.monotonic(), threading.Event()

    def report() -> None:
        while not ended.wait(EVERY_S):
            log.info(
                "policy %s: %s loads %s, %.0f s", config.name, config.engine, config.model, time.monotonic() - begin
            )

    thread = threading.Thread(target=report, name="loading-progress", daemon=True)
    thread.start()
    try:
        yield
        log.info("policy %s: %s is ready after %.1f s", config.name, config.engine, time.monotonic() - begin)
    finally:
        ended.set()
        thread.join()
