"""Rules of a user's own: `module:function`, named and loaded by whoever configures the process, never by a request.

A rule takes (example, trajectory, config) and returns a `Score`. What it raises, or returns instead, is the fault
of its item alone.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Mapping
from typing import Any

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import ConfigError, RewardError, VigorlError
from vigorl_lib.reward.base import Rule, Score
from vigorl_lib.reward.config import COMPOSED, REFERENCE, RewardConfig

logger = logging.getLogger(__name__)


def load_rules(entries: Mapping[str, str]) -> dict[str, Rule]:
    """Rules by name. Raises ConfigError (RULE_INVALID) for an entry that names no function."""
    return {name: _checked(name, _function(name, entry)) for name, entry in entries.items()}


def _function(name: str, entry: str) -> Any:
    module, _, attribute = entry.partition(":")
    if name == COMPOSED or name.startswith(REFERENCE):
        raise ConfigError(f"rules: {name!r} is a rule of this library; take another name", reason="RULE_INVALID")
    try:
        if not module or not attribute:
            raise ValueError("expected module:function")
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"rules.{name}: expected module:function that this process can import, found {entry!r} ({error})",
            reason="RULE_INVALID",
            rule=name,
        ) from error
    if not callable(found):
        raise ConfigError(f"rules.{name}: {entry!r} cannot be called", reason="RULE_INVALID", rule=name)
    return found


def _checked(name: str, function: Any) -> Rule:
    def score(example: Example, trajectory: Trajectory, config: RewardConfig) -> Score:
        try:
            made = function(example, trajectory, config)
        except VigorlError:
            raise
        except Exception as error:
            # A user's code may raise anything; the item carries it, the log the place.
            logger.exception("rule %s failed on %s", name, trajectory.trajectory_id)
            raise RewardError(
                f"rule {name} failed on {trajectory.trajectory_id}: {type(error).__name__}: {error}",
                reason="RULE_FAILED",
                infrastructure=False,
            ) from error
        if not isinstance(made, Score) or not math.isfinite(made.total):
            raise RewardError(
                f"rule {name}: expected a Score with a finite total, found {made!r}",
                reason="RULE_FAILED",
                infrastructure=False,
            )
        return made

    return score
