"""Which parts are here and which are somewhere else. A recipe's `services` section.

A laptop run and a cluster run differ in this and nothing else: the environment and the reward are
`local` or an address, a policy is an address by name (or an engine opened in this process).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from vigorl_lib.config import Section
from vigorl_lib.environment.base import Environment
from vigorl_lib.errors import ConfigError
from vigorl_lib.policy.base import Policy
from vigorl_lib.reward.base import Reward
from vigorl_lib.reward.config import JudgeConfig
from vigorl_lib.rpc.config import ClientConfig

if TYPE_CHECKING:
    from vigorl_lib.rpc.channels import Connections

LOCAL = "local"


class ServicesConfig(Section):
    """Addresses as gRPC targets, for example `127.0.0.1:50051` or `dns:///name:port`.

    Several replicas stand side by side with commas, or behind the name of a headless service.
    """

    policies: dict[str, str] = Field(default_factory=dict)
    """Target of each named policy."""
    policy_admin: dict[str, str] = Field(default_factory=dict)
    """Where each policy that a run trains takes new weights: a listener of its own."""
    environment: str = LOCAL
    reward: str = LOCAL
    judge: JudgeConfig | None = None
    """Who decides about free answers where the reward is local; a reward service has its own."""
    rules: dict[str, str] = Field(default_factory=dict)
    """A user's own rules where the reward is local: `module:function` by name."""
    search: str = ""
    """Target of the search service, for the commands that ask it."""
    evaluation: str = ""
    """Target of the evaluation service; without one a command evaluates in its own process."""
    client: ClientConfig = ClientConfig()
    """Deadlines and TLS of all calls to these."""


@dataclass(frozen=True, slots=True)
class Wired:
    """The three parts that a rollout needs."""

    policy: Policy
    environment: Environment
    reward: Reward


@asynccontextmanager
async def connect(services: ServicesConfig, policy: str | Policy) -> AsyncIterator[Wired]:
    """Connect to the parts; `policy` is a name of `services.policies`, or an engine of this process.

    Raises ConfigError (POLICY_UNKNOWN) for a name without an address.
    """
    from vigorl_lib.rpc.channels import Connections

    connections = Connections(services.client)
    wired = Wired(
        _policy(services, policy, connections),
        _environment(services.environment, connections),
        _reward(services, connections),
    )
    try:
        yield wired
    finally:
        for part in (wired.policy, wired.environment, wired.reward):
            await part.close()
        await connections.close()


@asynccontextmanager
async def connect_reward(services: ServicesConfig) -> AsyncIterator[Reward]:
    """The reward alone, for whoever scores what was said before."""
    from vigorl_lib.rpc.channels import Connections

    connections = Connections(services.client)
    reward = _reward(services, connections)
    try:
        yield reward
    finally:
        await reward.close()
        await connections.close()


def _policy(services: ServicesConfig, policy: str | Policy, connections: Connections) -> Policy:
    if not isinstance(policy, str):
        return policy
    from vigorl_lib.policy.client import PolicyClient

    if policy not in services.policies:
        known = ", ".join(sorted(services.policies)) or "none"
        raise ConfigError(
            f"services.policies has no address for {policy!r} (known: {known}); "
            f"start one and add --set services.policies.{policy}=HOST:PORT",
            reason="POLICY_UNKNOWN",
            policy=policy,
        )
    admin = services.policy_admin.get(policy, "")
    return PolicyClient(services.policies[policy], policy, admin=admin, connections=connections)


def _environment(target: str, connections: Connections) -> Environment:
    if target == LOCAL:
        from vigorl_lib.environment.zoom import ZoomEnvironment

        return ZoomEnvironment()
    from vigorl_lib.environment.client import EnvironmentClient

    return EnvironmentClient(target, connections=connections)


def _reward(services: ServicesConfig, connections: Connections) -> Reward:
    if services.reward == LOCAL:
        from vigorl_lib.reward.custom import load_rules
        from vigorl_lib.reward.judge import Judge
        from vigorl_lib.reward.local import LocalReward

        judge = None if services.judge is None else Judge.open(services.judge)
        return LocalReward(judge, load_rules(services.rules))
    from vigorl_lib.reward.client import RewardClient

    return RewardClient(services.reward, connections=connections)
