"""The settings class of each service by its name, for whoever checks a configuration without starting one."""

from __future__ import annotations

from vigorl_lib.rpc.server import ServiceSection
from vigorl_services.environment.__main__ import EnvironmentServiceConfig
from vigorl_services.evaluation.__main__ import EvaluationServiceConfig
from vigorl_services.policy.__main__ import PolicyServiceConfig
from vigorl_services.reward.__main__ import RewardServiceConfig
from vigorl_services.search.__main__ import SearchServiceConfig

SERVICE_CONFIGS: dict[str, type[ServiceSection]] = {
    "environment": EnvironmentServiceConfig,
    "evaluation": EvaluationServiceConfig,
    "policy": PolicyServiceConfig,
    "reward": RewardServiceConfig,
    "search": SearchServiceConfig,
}
