"""Asking a judge, which is a policy like any other, until its reply can be read.

Greedy first, so that the same question gets the same reply; a reply that cannot be read is asked for again with other
words. What is asked, and what a reply means, is the business of `judge` and of whoever else needs one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from vigorl_lib.domain.seeds import derive_seed
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import RewardError, VigorlError
from vigorl_lib.policy.base import Policy, PolicyInfo, Sampling
from vigorl_lib.reward.config import JudgeConfig

T = TypeVar("T")

AGAIN_TEMPERATURE = 0.7


def open_judge_policy(config: JudgeConfig) -> Policy:
    """The policy that judges; one behind an address is not asked before it is needed.

    Raises what opening an engine raises.
    """
    if config.engine is not None:
        from vigorl_lib.policy.engines import open_policy

        return open_policy(config.engine)
    from vigorl_lib.policy.client import PolicyClient
    from vigorl_lib.rpc.channels import Connections

    return PolicyClient(config.target, config.policy, connections=Connections(config.client))


def judge_name(info: PolicyInfo) -> str:
    """Name and version, for the record."""
    return f"{info.name}@{info.revision or info.model}/{info.version}"


async def ask_until_read(
    policy: Policy,
    prompt: Sequence[Segment],
    read: Callable[[str], T | None],
    config: JudgeConfig,
    *,
    subject: str,
    wanted: str,
) -> T:
    """What `read` finds in the reply; it gives None for one that it cannot read.

    `subject` names what is judged, `wanted` what was asked for; both stand in the error. Raises RewardError
    (JUDGE_UNREADABLE) after `config.attempts` replies, and what the policy raises.
    """
    said = ""
    for attempt in range(config.attempts):
        sampling = Sampling(temperature=AGAIN_TEMPERATURE if attempt else 0.0, max_tokens=config.max_tokens)
        try:
            generation = await policy.generate(
                prompt, seeds=[derive_seed(0, "judge", subject, attempt)], sampling=sampling
            )
        except VigorlError as error:
            if not error.infrastructure or attempt + 1 == config.attempts:
                raise
            continue
        said = generation.completions[0].text
        found = read(said)
        if found is not None:
            return found
    raise RewardError(
        f"{subject}: expected {wanted} of the judge, found {said[-200:]!r} after {config.attempts} attempts",
        reason="JUDGE_UNREADABLE",
        infrastructure=False,
    )
