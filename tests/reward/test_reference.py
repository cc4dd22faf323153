"""The reference's rules by example, quirk by quirk."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.reward.test_rules import EXAMPLE, LOOK, RIGHT, trajectory, turn
from vigorl_lib.domain.example import AnswerKind, GroundTruth
from vigorl_lib.domain.geometry import Box, Crop, Point, Size
from vigorl_lib.domain.grammar import Answer, Zoom
from vigorl_lib.domain.trajectory import StopReason
from vigorl_lib.errors import ConfigError
from vigorl_lib.reward.base import RewardOutcome, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.reward.reference import JUDGES, QUIRKS, RULES, calls, integers
from vigorl_lib.reward.rules import gold_of, reference_rule, response_of

BOX = "(100, 100, 200, 200)"


def zoom(x: object, y: object) -> str:
    call = f'{{"name": "search_coordinate", "arguments": {{"coordinate": [{x}, {y}]}}}}'
    return f"<think> look </think>\n<tool_call>\n{call}\n</tool_call>\n<observation>\nseen\n</observation>\n"


def answer(text: str, thought: str = "so (1, 2)") -> str:
    return f"<think> {thought} </think>\n<answer> {text} </answer>"


@pytest.mark.parametrize(
    ("rule", "response", "gold", "overall", "form", "right"),
    [
        ("point_in_bbox", answer("(150, 150)"), BOX, 1.0, 1, 1),
        ("point_in_bbox", answer("(200, 100)"), BOX, 1.0, 1, 1),
        ("point_in_bbox", answer("(201, 100)"), BOX, 0.5, 1, 0),
        ("point_in_bbox", answer("(150.5, 150)"), BOX, 0.0, 0, 0),
        ("point_in_bbox", "(150, 150)", BOX, 0.5, 0, 1),
        ("point_in_bbox", answer("(150, 150)") + " and more", BOX, 0.5, 0, 1),
        ("point_in_bbox_grounded_thinking", answer("(150, 150)"), BOX, 1.0, 1, 1),
        ("point_in_bbox_grounded_thinking", answer("(150, 150)", "no point"), BOX, 0.5, 0, 1),
        ("point_in_bbox_grounded_thinking", answer("(150, 150)", "( 1, 2)"), BOX, 0.5, 0, 1),
        ("string_match", answer("Left"), "left", 1.0, 1, 1),
        ("string_match", answer("B. left"), "left", 1.0, 1, 1),
        ("string_match", answer("left"), "Left", 0.5, 1, 0),
        ("string_match", answer(""), "left", 0.0, 0, 0),
        ("string_match", "left", "left", 0.5, 0, 1),
        ("string_match_grounded_thinking", answer("left", "nothing"), "left", 0.5, 0, 1),
        ("string_match_multiturn", zoom(10, 10) + answer("Left"), "left", 1.0, 1, 1),
        ("string_match_multiturn", zoom(10, 10) + zoom(50, 50) + answer("Left"), "LEFT", 1.08, 1.2, 1),
        ("string_match_multiturn", zoom(10, 10) + zoom(15, 15) + answer("left"), "left", 1.0, 1, 1),
        ("string_match_multiturn", zoom(10, 10) + zoom(50, 50) + answer("right"), "left", 0.48, 1.2, 0),
        ("string_match_multiturn", zoom(-900, 10) + zoom(90000, 50) + answer("left"), "left", 1.08, 1.2, 1),
        ("string_match_multiturn", zoom(1.5, 10) + answer("left"), "left", 0.6, 0, 1),
        ("string_match_multiturn", zoom("true", 10) + answer("left"), "left", 0.6, 0, 1),
        ("string_match_multiturn", answer("B. left"), "left", 0.4, 1, 0),
        ("string_match_multiturn", answer("left") + "<|im_end|>", "left", 1.0, 1, 1),
        ("string_match_multiturn", answer("left") + "!", "left", 0.6, 0, 1),
        ("point_in_bbox_multicrop", zoom(10, 10) + zoom(50, 50) + answer("(150, 150)"), BOX, 1.08, 1.2, 1),
        ("point_in_bbox_multicrop", zoom(10, 10) + answer("there"), BOX, 0.0, 0, 0),
        ("web_action", answer("click [12]"), "click [12]", 1.0, 1, 1),
        ("web_action", answer("click [12]"), "click [13]", 0.75, 1, 0.5),
        ("web_action", answer("type [7] [tea]"), "type [7] [coffee]", 1.0, 1, 1),
        ("web_action", answer("type [7] [tea]"), "click [7]", 0.75, 1, 0.5),
        ("web_action", answer("scroll [down]"), "scroll [up]", 0.5, 1, 0),
        ("web_action", answer("stop [12 dollars]"), "stop [9 dollars]", 1.0, 1, 1),
        ("web_action", answer("go_back"), "go_back", 1.0, 1, 1),
        ("web_action", answer("hover [3]"), "click [3]", 0.5, 1, 0),
        ("web_action_grounded_thinking", answer("click [12]", "no point"), "click [12]", 0.5, 0, 1),
    ],
)
def test_a_rule_pays_what_the_reference_pays(
    rule: str, response: str, gold: str, overall: float, form: float, right: float
) -> None:
    score = RULES[rule](response, gold)
    assert (score.overall, score.format, score.accuracy) == pytest.approx((overall, form, right))


@pytest.mark.parametrize(
    ("judge", "prediction", "gold", "right"),
    [
        ("string_match", "The left one.", "left", True),
        ("string_match", "L e f t", "(left)", True),
        ("string_match", "righ", "right", False),
        ("point_in_bbox", "(150, 150)", BOX, True),
        ("point_match", "(0, 49)", "(0, 0)", True),
        ("point_match", "(0, 50)", "(0, 0)", False),
        ("web_action", "click [12]", "click [12]", True),
        ("web_action", "click [12] please", "click [12]", False),
        ("web_action", "type [12] [tea]", "type [12] [coffee]", True),
    ],
)
def test_a_judge_is_as_lenient_as_the_reference(judge: str, prediction: str, gold: str, right: bool) -> None:
    assert JUDGES[judge](prediction, gold) is right


@pytest.mark.parametrize("text", [f"({'9' * 5000}, 1)", "(1,)", "(1 2)", "", "()", "(1, 2, 3)", "(01, 2)", "1, 2)"])
def test_what_is_no_pair_of_whole_numbers_is_none(text: str) -> None:
    assert integers(text, 2) is None


def test_a_tool_call_of_hostile_json_breaks_the_grammar_and_nothing_else() -> None:
    for body in (
        "[" * 5000,
        "9" * 5000,
        "null",
        "[]",
        '{"arguments": []}',
        '{"arguments": {"coordinate": [1e400, 1]}}',
    ):
        response = f"<think></think><tool_call>{body}</tool_call><observation></observation>" + answer("x")
        assert calls(response) is None


def test_the_multi_turn_grammar_takes_nothing_out_of_order() -> None:
    good = zoom(1, 2) + answer("x")
    assert calls(good) == [(1, 2)]
    for bad in (
        good.replace("<observation>", "").replace("</observation>", ""),
        good.replace("</think>", "", 1),
        answer("x") + answer("x"),
        zoom(1, 2),
        "<observation></observation>" + answer("x"),
        answer("x <think>"),
    ):
        assert calls(bad) is None, bad


def test_our_trajectories_are_read_as_the_reference_would_read_their_text() -> None:
    shown = replace(LOOK, text=zoom(50, 50).split("<observation>")[0], crop=Crop(Box(0, 0, 9, 9), Size(9, 9)))
    last = replace(RIGHT, text=answer("pink"))
    both = trajectory(shown, last)
    assert calls(response_of(both)) == [(50, 50)]
    score = reference_rule("string_match_multiturn")(EXAMPLE, both, RewardConfig())
    assert score.parts == {"answer": 1.0, "format": 1.0}
    assert (score.total, score.outcome) == (1.0, RewardOutcome.CORRECT)
    # After a zoom that the environment refused nothing is shown, and the reference's grammar breaks.
    assert calls(response_of(trajectory(replace(shown, crop=None), last))) is None


@pytest.mark.parametrize(
    "degenerate",
    [
        "<answer>" * 20_000,
        "<think>" * 20_000,
        f"type {'[' * 50_000}",
        f"<think>{'</think><answer></answer> ' * 5_000}x",
    ],
    ids=["answers", "thoughts", "brackets", "pairs"],
)
def test_a_text_of_thousands_of_tags_is_scored_at_once(degenerate: str) -> None:
    # A pattern that starts again at each of them takes seconds for each rule.
    begin = time.perf_counter()
    for rule in RULES.values():
        rule(degenerate, "type [7] [x]")
    assert time.perf_counter() - begin < 2.0


def test_a_box_is_compared_in_the_numbers_of_the_stored_image() -> None:
    truth = GroundTruth("", AnswerKind.POINT, box=Box(100.4, 100, 200, 199.6))
    pointing = replace(EXAMPLE, truth=truth)
    assert gold_of(pointing) == "(100, 100, 200, 200)"
    said = trajectory(replace(turn("Here.", Answer("(150, 150)")), text=answer("(150, 150)")))
    assert reference_rule("point_in_bbox")(pointing, said, RewardConfig()).parts["answer"] == 1.0
    assert "unmapped_points" in QUIRKS


async def test_a_rule_is_chosen_by_name_and_an_unknown_name_is_refused_with_the_known_ones() -> None:
    one = trajectory(replace(RIGHT, text=answer("Pink", "no point")))
    reward = LocalReward()
    (score,) = await reward.score([(EXAMPLE, one)], config=RewardConfig(rule="reference.string_match"))
    assert isinstance(score, Score)
    assert score.total == 1.0
    with pytest.raises(ConfigError, match=r"no rule 'string_match'.*composed.*reference\.web_action") as refused:
        await reward.score([(EXAMPLE, one)], config=RewardConfig(rule="string_match"))
    assert refused.value.reason == "RULE_UNKNOWN"


def test_an_unfinished_trajectory_has_no_answer_for_the_reference_either() -> None:
    cut = trajectory(turn("x", Zoom(Point(1, 1))), stop=StopReason.MAX_TURNS)
    score = reference_rule("string_match")(EXAMPLE, cut, RewardConfig())
    assert (score.total, score.outcome) == (0.0, RewardOutcome.NO_ANSWER)
