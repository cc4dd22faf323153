from __future__ import annotations

import pytest

from vigorl_lib.domain.example import AnswerKind, GroundTruth
from vigorl_lib.domain.geometry import Box, FrameMap, Size
from vigorl_lib.errors import RewardError
from vigorl_lib.reward.matching import Match, match_answer, normalize

RIGHT, WRONG, UNREADABLE, UNDECIDED = Match


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("pink", RIGHT),
        (" Pink.\n", RIGHT),
        ('"PINK"', RIGHT),
        ("(B) pink", RIGHT),
        ("b. Pink", RIGHT),
        ("B. blue", WRONG),
        ("pinkish", WRONG),
        ("it is pink", WRONG),
        ("", WRONG),
    ],
)
def test_strings_are_compared_without_case_blanks_and_punctuation_at_the_edges(text: str, verdict: Match) -> None:
    assert match_answer(text, GroundTruth("Pink")) is verdict


def test_normalizing_keeps_what_stands_inside() -> None:
    assert normalize("  It's  3.5,\tnot 4! ") == "it's 3.5, not 4"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("the red car", RIGHT),
        ("The red car.", RIGHT),
        ("B", RIGHT),
        ("b.", RIGHT),
        ("(b)", RIGHT),
        ("B) the red car", RIGHT),
        ("(B) The red car", RIGHT),
        ("A. the red car", RIGHT),
        ("a", WRONG),
        ("C. a bus", WRONG),
        ("blue", WRONG),
        ("(D)", UNREADABLE),
        ("B. a lorry", UNREADABLE),
        ("the red", UNREADABLE),
        ("", UNREADABLE),
        ("()", UNREADABLE),
        ("7", UNREADABLE),
    ],
)
def test_a_choice_is_its_text_or_its_letter(text: str, verdict: Match) -> None:
    truth = GroundTruth("the red car", AnswerKind.CHOICE, choices=("blue", "The red car", "a bus"))
    assert match_answer(text, truth) is verdict


def test_a_choice_that_is_one_letter_is_itself_before_it_is_a_place() -> None:
    truth = GroundTruth("A", AnswerKind.CHOICE, choices=("B", "A"))
    assert match_answer("A", truth) is RIGHT
    assert match_answer("B", truth) is WRONG


# Model frame 112x56 over an original of 1120x560: ten original pixels to one.
FRAMES = FrameMap(Size(1120, 560), Size(112, 56))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("(10, 20)", RIGHT),
        ("at (19.9, 29.9).", RIGHT),
        ("(20, 20)", WRONG),
        ("(9.9, 20)", WRONG),
        ("(100, 200)", WRONG),
        ("(-10, 20)", WRONG),
        ("10, 20", UNREADABLE),
        ("(10, 20) or (12, 20)", UNREADABLE),
        ("the sign", UNREADABLE),
    ],
)
def test_a_point_must_lie_in_the_box_of_the_original_frame(text: str, verdict: Match) -> None:
    truth = GroundTruth("", AnswerKind.POINT, box=Box(100, 200, 200, 300))
    assert match_answer(text, truth, FRAMES) is verdict


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        ("click [12]", "click [12]", RIGHT),
        (" click  [ 12 ] ", "click [12]", RIGHT),
        ("click [13]", "click [12]", WRONG),
        ("type [12] [x]", "click [12]", WRONG),
        ("type [12]", "click [12]", UNREADABLE),
        ("type [3] [New York]", "type [3] [new york]", RIGHT),
        ("type [3] [Boston]", "type [3] [new york]", WRONG),
        ("type [3]", "type [3] [new york]", UNREADABLE),
        ("type [3] []", "type [3] [new york]", WRONG),
        ("scroll [down]", "scroll [down]", RIGHT),
        ("go_back", "go_back", RIGHT),
        ("stop [It is (5, 6)]", "stop [it is (5, 6)]", RIGHT),
        ("press the button", "click [12]", UNREADABLE),
        ("click [12] now", "click [12]", UNREADABLE),
    ],
)
def test_all_parts_of_an_action_must_agree(text: str, gold: str, verdict: Match) -> None:
    assert match_answer(text, GroundTruth(gold, AnswerKind.ACTION)) is verdict


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("a", GroundTruth("a", AnswerKind.CHOICE)),
        ("(1, 2)", GroundTruth("", AnswerKind.POINT)),
        ("(1, 2)", GroundTruth("", AnswerKind.POINT, box=Box(0, 0, 5, 5))),
        ("click [1]", GroundTruth("dance", AnswerKind.ACTION)),
    ],
)
def test_a_truth_that_lacks_what_its_kind_needs_is_refused(text: str, truth: GroundTruth) -> None:
    with pytest.raises(RewardError) as caught:
        match_answer(text, truth)
    assert caught.value.reason == "TRUTH_INCOMPLETE"
    assert not caught.value.infrastructure


def test_a_free_answer_is_right_word_for_word_and_else_for_a_judge_to_say() -> None:
    truth = GroundTruth("It rained.", AnswerKind.FREE)
    assert match_answer(" it  RAINED ", truth) is RIGHT
    assert match_answer("Because of rain", truth) is UNDECIDED
