from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from vigorl_lib.environment.zoom import ZoomEnvironment


@pytest.fixture
async def environment() -> AsyncIterator[ZoomEnvironment]:
    environment = ZoomEnvironment(threads=1)
    yield environment
    await environment.close()
