"""Our rules of the reference against a second, independent statement of them, on many generated responses."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.reward import reference_oracle as oracle
from tests.reward.response_corpus import corpus
from vigorl_lib.domain.grammar import CLASSIC, MULTI_TURN, SINGLE_TURN, Answer, Zoom, find_points, parse_turn
from vigorl_lib.domain.web_action import parse_action
from vigorl_lib.domain.wire import ACTION_STOPS
from vigorl_lib.reward.reference import JUDGES, RULES

# Python's parser warns of what is no number; the second statement asks it about every text.
pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning")

COUNT = 21_000
RESPONSES = list(corpus(20261121, COUNT))


def told(disagreements: list[str]) -> str:
    return f"{len(disagreements)} disagreements, the first:\n" + "\n".join(disagreements[:8])


@pytest.mark.parametrize("rule", oracle.REWARDS)
def test_a_reward_scores_every_response_as_its_second_statement(rule: str) -> None:
    disagreements, seen = [], Counter[float]()
    for response, gold in RESPONSES:
        ours, theirs = RULES[rule](response, gold), oracle.score(rule, response, gold)
        seen[theirs.accuracy] += 1
        if any(
            abs(a - b) > 1e-9
            for a, b in ((ours.overall, theirs.overall), (ours.format, theirs.format), (ours.accuracy, theirs.accuracy))
        ):
            disagreements.append(f"{response!r} gold {gold!r}: {ours} {theirs}")
    assert not disagreements, told(disagreements)
    assert seen[1.0] > 200, "the corpus must hold right answers for this to mean anything"


@pytest.mark.parametrize("kind", oracle.JUDGES)
def test_a_judge_decides_every_answer_as_its_second_statement(kind: str) -> None:
    disagreements, seen = [], Counter[bool]()
    for response, gold in RESPONSES:
        answer = oracle.predicted(response)
        ours, theirs = JUDGES[kind](answer, gold), oracle.judge(kind, answer, gold)
        seen[theirs] += 1
        if ours is not theirs:
            disagreements.append(f"{answer!r} gold {gold!r}: {ours} {theirs}")
    assert not disagreements, told(disagreements)
    assert min(seen[True], seen[False]) > 50


def test_a_search_step_is_an_answer_or_a_thought_as_the_reference_takes_it() -> None:
    """Ours keeps the thought beside an answer, calls an empty one malformed, and leaves its letter to the matcher."""
    disagreements, seen = [], Counter[str]()
    for response, _ in RESPONSES:
        if "<tool_call>" in response:
            continue  # the reference's search knows no tool; ours refuses a call there by name
        action = parse_turn(response, CLASSIC, strict=False).action
        kind, text = oracle.search_step(response)
        seen[kind] += 1
        if (kind == "answer" and text != "") != isinstance(action, Answer):
            disagreements.append(f"{response!r}: {action} {kind}")
        elif isinstance(action, Answer) and action.text != text:
            disagreements.append(f"{response!r}: {action.text!r} {text!r}")
    assert not disagreements, told(disagreements)
    assert min(seen["answer"], seen["thought"]) > 100


def test_a_turn_zooms_where_the_reference_lets_it() -> None:
    """Sampling ends behind the first closing tag of an action, so texts are cut there."""
    disagreements, seen = [], Counter[str]()
    for response, _ in RESPONSES:
        ends = [at + len(tag) for tag in ACTION_STOPS if (at := response.find(tag)) >= 0]
        text = response[: min(ends)] if ends else response
        if "<answer>" in text and "</answer>" not in text:
            continue  # an answer that was never closed is one for us; for the reference the turn is lost
        action = parse_turn(text, MULTI_TURN, strict=False).action
        kind, point = oracle.rollout_action(text)
        seen[kind] += 1
        ours = (action.point.x, action.point.y) if isinstance(action, Zoom) else None
        if ours != point or (isinstance(action, Answer) and action.text != oracle.upfront_answer(text)):
            disagreements.append(f"{text!r}: {action} {kind} {point}")
    assert not disagreements, told(disagreements)
    assert min(seen.values()) > 100


def test_a_whole_generation_answers_what_the_reference_takes_from_it() -> None:
    disagreements, seen = [], Counter[bool]()
    for response, _ in RESPONSES:
        answer = oracle.upfront_answer(response)
        if "<tool_call>" in response or (answer is None and "<answer>" in response):
            continue  # a call is refused here; an answer that was never closed is one for us alone
        action = parse_turn(response, SINGLE_TURN, strict=False).action
        ours = action.text if isinstance(action, Answer) else None
        seen[answer is None] += 1
        if ours != (answer or None):
            disagreements.append(f"{response!r}: {ours!r} {answer!r}")
    assert not disagreements, told(disagreements)
    assert min(seen.values()) > 100


def test_points_in_prose_are_those_that_the_reference_builds_chains_from() -> None:
    disagreements, seen = [], Counter[int]()
    for response, _ in RESPONSES:
        ours = [(point.x, point.y) for point in find_points(response)]
        theirs = oracle.numbers_in_prose(response)
        seen[min(len(theirs), 3)] += 1
        if ours != theirs:
            disagreements.append(f"{response!r}: {ours} {theirs}")
    assert not disagreements, told(disagreements)
    assert min(seen.values()) > 100


def test_a_web_action_is_read_in_its_parts() -> None:
    disagreements, seen = [], Counter[str]()
    for response, gold in RESPONSES:
        for text in (oracle.predicted(response), gold, f" {gold}\n"):
            parts, action = oracle.action_parts(text), parse_action(text)
            mark = "" if action is None or action.element is None else str(action.element)
            ours = None if action is None else (action.verb.value, mark or action.direction, action.text)
            seen[parts[0] if parts else ""] += 1
            if ours != parts:
                disagreements.append(f"{text!r}: {ours} {parts}")
    assert not disagreements, told(disagreements)
    assert len(seen) == 6
    assert min(seen.values()) > 50
