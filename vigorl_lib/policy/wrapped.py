"""A policy around another one: what is passed on as it is. A wrapper adds its own `generate`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.policy.base import Policy, PolicyInfo, Sampling, Scored, StreamEvent


class WrappedPolicy:
    """Policy protocol over `inner`, but for `generate`. Closing it closes the other."""

    def __init__(self, inner: Policy) -> None:
        self.inner = inner

    def stream(
        self,
        prompt: Sequence[Segment],
        *,
        seed: int,
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> AsyncGenerator[StreamEvent]:
        return self.inner.stream(
            prompt, seed=seed, sampling=sampling, min_policy_version=min_policy_version, request_id=request_id
        )

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        return await self.inner.score(prompt, min_policy_version=min_policy_version, request_id=request_id)

    async def info(self) -> PolicyInfo:
        return await self.inner.info()

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        return await self.inner.update_weights(version=version, uri=uri, run_id=run_id)

    async def close(self) -> None:
        await self.inner.close()
