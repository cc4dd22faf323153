"""Trajectories, trees and chains as people see them."""

from __future__ import annotations

import itertools
from dataclasses import replace

from tests.report.conftest import Run
from tests.report.test_marks import ANSWER, IMAGE, SEEN, ZOOM
from vigorl_lib.domain.grammar import Malformed, MalformedReason
from vigorl_lib.domain.trajectory import InvalidTurn, Message, Origin, Role, Segment, StopReason
from vigorl_lib.report.chain import render_chain
from vigorl_lib.report.trajectory import highlight, render_trajectory
from vigorl_lib.report.tree import best_line, render_tree
from vigorl_lib.search.journal import read_trees
from vigorl_lib.storage.images import ImageStore


def test_a_strip_has_a_frame_a_turn_with_what_it_saw() -> None:
    shown = replace(SEEN, turns=(replace(ZOOM, crop_image=IMAGE), ANSWER), outcome="correct", reward=1.1)
    html = render_trajectory(shown, IMAGE, "student")
    assert html.count("<li>") == 2
    assert "first view, 100×100" in html
    assert "80×80 of the original, ×2" in html
    assert 'class="chip good">right' in html
    assert "reward 1.10" in html


def test_points_in_a_thought_are_numbered_and_its_text_is_escaped() -> None:
    html = highlight("<i> at ( 50, 50 ).", {ZOOM.turn.points[0]: "1"})
    assert html == '&lt;i&gt; at <span class="point">( 50, 50 )<sup>1</sup></span>.'


def test_a_malformed_turn_says_what_is_wrong_and_why_it_ended() -> None:
    turn = replace(ANSWER.turn, action=Malformed(MalformedReason.NO_ACTION, "expected an action"))
    record = replace(ANSWER, turn=turn, invalid=InvalidTurn.MALFORMED, detail="expected an action")
    html = render_trajectory(
        replace(SEEN, turns=(record,), stop=StopReason.INVALID_TURNS, outcome="no_answer"), IMAGE, "student"
    )
    assert "malformed: no action" in html
    assert "malformed: expected an action" in html
    assert "stop: invalid turns" in html
    assert 'class="chip bad">no answer' in html


def test_a_tree_shows_every_node_and_every_rollout_once(run: Run) -> None:
    images = ImageStore(run.storage)
    examples = {example.example_id: example for example in run.examples}
    for tree in read_trees(run.storage, "runs/quickstart/search/00000", images):
        html = render_tree(tree, examples[tree.example_id])
        assert html.count('class="name"') == len(tree.nodes)
        assert html.count('title="rollout"') == len(tree.rollouts)
        assert html.count("class=best") == len(best_line(tree.root)) - 1


def test_the_best_line_follows_value(run: Run) -> None:
    for tree in read_trees(run.storage, "runs/quickstart/search/00000"):
        line = best_line(tree.root)
        assert line[0] is tree.root
        assert not line[-1].children
        assert all(child.value == max(c.value for c in node.children) for node, child in itertools.pairwise(line))


def test_a_chain_shows_what_is_trained_and_what_is_not() -> None:
    def said(text: str, trained: bool) -> Segment:
        return Segment(Origin.DEMONSTRATION, (Message(Role.ASSISTANT, (text,)),), trained=trained)

    prompt = Segment(Origin.PROMPT, (Message(Role.SYSTEM, ("Look.",)), Message(Role.USER, (IMAGE, "\nWhere?"))))
    html = render_chain(replace(SEEN, segments=(prompt, said("<think> astray", False), said("back", True))), "A chain")
    assert [html.count(f'class="segment {style}"') for style in ("given", "skipped", "trained")] == [1, 1, 1]
    assert "shown, not trained" in html
    assert "&lt;think&gt; astray" in html
    assert 'alt="image, 400×400 pixels"' in html
