"""Rules of a user's own: named by the process, never by a request."""

from __future__ import annotations

import pytest

from tests.reward.test_rules import EXAMPLE, LOOK, RIGHT, trajectory
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import ConfigError, RewardError
from vigorl_lib.reward.base import RewardOutcome, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.custom import load_rules
from vigorl_lib.reward.local import LocalReward


def brevity(example: Example, trajectory: Trajectory, config: RewardConfig) -> Score:
    turns = len(trajectory.turns)
    return Score(1.0 / turns, {"brevity": 1.0 / turns}, RewardOutcome.CORRECT)


def broken(example: Example, trajectory: Trajectory, config: RewardConfig) -> Score:
    raise KeyError("oops")


def careless(example: Example, trajectory: Trajectory, config: RewardConfig) -> object:
    return 1.0


NOT_A_FUNCTION = 3
HERE = "tests.reward.test_custom"


async def scored(name: str) -> Score | Exception:
    rules = load_rules({"brevity": f"{HERE}:brevity", "broken": f"{HERE}:broken", "careless": f"{HERE}:careless"})
    (score,) = await LocalReward(rules=rules).score(
        [(EXAMPLE, trajectory(LOOK, RIGHT))], config=RewardConfig(rule=name)
    )
    return score


async def test_a_rule_of_ones_own_scores_under_its_name() -> None:
    assert await scored("brevity") == Score(0.5, {"brevity": 0.5}, RewardOutcome.CORRECT)


@pytest.mark.parametrize(
    ("name", "says"), [("broken", "KeyError: 'oops'"), ("careless", "expected a Score.*found 1.0")]
)
async def test_what_a_rule_does_wrong_is_the_fault_of_its_item(name: str, says: str) -> None:
    score = await scored(name)
    assert isinstance(score, RewardError)
    assert (score.reason, score.infrastructure) == ("RULE_FAILED", False)
    with pytest.raises(RewardError, match=says):
        raise score


@pytest.mark.parametrize(
    "entry", ["no_such_module:f", f"{HERE}:no_such_function", "nothing", ":f", f"{HERE}:NOT_A_FUNCTION"]
)
def test_an_entry_that_names_no_function_is_refused_at_start(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"rules\.mine") as refused:
        load_rules({"mine": entry})
    assert refused.value.reason == "RULE_INVALID"


@pytest.mark.parametrize("name", ["composed", "reference.string_match"])
def test_a_rule_of_the_library_cannot_be_replaced(name: str) -> None:
    with pytest.raises(ConfigError, match="take another name"):
        load_rules({name: f"{HERE}:brevity"})


async def test_a_request_cannot_name_code() -> None:
    with pytest.raises(ConfigError, match="no rule"):
        await LocalReward().score([(EXAMPLE, trajectory(LOOK, RIGHT))], config=RewardConfig(rule="os.system"))
