"""Compatible mode, against a plain statement of what the published code's builder does with its own tree files."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.search.support import TASK, WrittenPolicy, example, said, search_one, searching
from vigorl_lib.domain.grammar import SINGLE_TURN, Answer, Continue, parse_turn, render_turn
from vigorl_lib.domain.trajectory import Segment, Trajectory
from vigorl_lib.prompts import Prompt
from vigorl_lib.search.config import LinearizeConfig, SearchConfig
from vigorl_lib.search.linearize import ChainTask, linearize
from vigorl_lib.search.reference_trees import export_tree, import_tree
from vigorl_lib.search.tree import Node, Tree

PROMPT = Prompt("single", "Think, then answer.", "")
CONFIG = LinearizeConfig(mode="reference", validation_share=0.2)
PHRASE = "Wait, this seems off. Let's try something else."


def thinking(seed: int) -> WrittenPolicy:
    """Thinks for one to four steps and is right half of the time; sometimes thinks in the turn that answers."""
    rng = random.Random(seed)

    def write(prompt: Sequence[Segment], index: int) -> str:
        if len(said(prompt)) < rng.randint(1, 4):
            return render_turn(
                f"Step <image>{len(said(prompt))} at ({rng.randrange(100)}, {rng.randrange(100)}).", Continue()
            )
        return render_turn("" if rng.random() < 0.5 else "So it is.", Answer(rng.choice(["pink", "cyan"])))

    return WrittenPolicy(write)


@pytest.fixture
async def trees() -> list[Tree]:
    task = TASK.model_copy(update={"mode": "thought_steps", "prompt": "multi_turn"})
    config = SearchConfig(simulations=6, children=3, rollouts_per_child=2, dedup_radius_px=0, rollout_max_steps=2)
    return [
        (await search_one(searching(thinking(seed), config, task=task), example(f"e{seed}")))[0] for seed in range(10)
    ]


def as_file(tree: Tree) -> dict[str, Any]:
    """The tree as the published code saves it: nested nodes with their own rollouts as lists of texts."""
    mine: dict[int, list[dict[str, Any]]] = {}
    for rollout in tree.rollouts:
        *before, last = rollout.trajectory.turns
        texts = ["<image>\nWhat is it?", *(f"<think>\n{record.turn.thought}\n</think>" for record in before)]
        final = last.turn.action.text if isinstance(last.turn.action, Answer) else None
        texts.append(last.text if final is None else f"<answer> {final} </answer>")
        saved = {"reward": rollout.value, "ephemeral_texts": texts}
        # A final child is judged once for each rollout that it would have had.
        mine.setdefault(rollout.node, []).extend([saved, saved] if tree.nodes[rollout.node].terminal else [saved])

    def nested(node: Node) -> dict[str, Any]:
        return {
            "is_terminal": node.terminal,
            "rollouts": mine.get(node.index, []),
            "children": [nested(child) for child in node.children],
        }

    return nested(tree.root)


def stated_plainly(node: dict[str, Any]) -> set[str]:
    """The texts of the chains of one saved tree."""

    def body(texts: list[str]) -> str:
        if texts[0].startswith("<image>") or texts[0].endswith("<image>"):
            texts = texts[1:]
        return " ".join(re.sub(r"</?think>|</?answer>", "", text).strip() for text in texts[:-1])

    def wrap(chain: str, texts: list[str]) -> str:
        final = re.sub(r"</?think>|</?answer>", "", texts[-1]).strip()
        return f"<think>\n{chain.replace('<image>', '')}\n</think>\n<answer> {final} </answer>"

    right = [r["ephemeral_texts"] for r in node["rollouts"] if r["reward"] >= 1.0]
    wrong = [r["ephemeral_texts"] for r in node["rollouts"] if not r["reward"] >= 1.0]
    found = {wrap(f"{body(bad)}\n{PHRASE}\n{body(good)}", good) for bad in wrong for good in right}
    found |= {wrap(body(good), good) for good in right}
    if not node["is_terminal"]:
        for child in node["children"]:
            found |= stated_plainly(child)
    return found


def texts_of(chains: Sequence[Trajectory], example_id: str) -> list[str]:
    return [chain.segments[-1].text for chain in chains if chain.example_id == example_id]


async def test_the_same_trees_give_the_same_chains(trees: list[Tree]) -> None:
    chains = linearize(trees, CONFIG, ChainTask(PROMPT), seed=0)
    whole = [*chains.train, *chains.validation]
    kinds = set()
    for tree in trees:
        made = texts_of(whole, tree.example_id)
        assert len(set(made)) == len(made)
        assert set(made) == stated_plainly(as_file(tree))
        kinds |= {PHRASE in text for text in made}
    assert kinds == {True, False}
    assert any(rollout.trajectory.answer is None for tree in trees for rollout in tree.rollouts)


async def test_the_last_trees_are_held_out(trees: list[Tree]) -> None:
    chains = linearize(trees[::-1], CONFIG, ChainTask(PROMPT), seed=0)
    solved = [tree.example_id for tree in trees if tree.solved]
    assert {chain.example_id for chain in chains.validation} == set(solved) & {"e8", "e9"}
    assert {chain.example_id for chain in chains.train} == set(solved) - {"e8", "e9"}


async def test_a_chain_says_what_its_record_says(trees: list[Tree]) -> None:
    chains = linearize(trees, CONFIG, ChainTask(PROMPT), seed=0)
    for chain in chains.train:
        (record,) = chain.turns
        assert record.text == chain.segments[-1].text
        assert parse_turn(record.text, SINGLE_TURN) == record.turn
        assert chain.segments[0].messages[0].text == PROMPT.text
        assert chain.answer == "pink"
    assert chains.statistics["chains"] == len(chains.train) + len(chains.validation)


async def test_trees_that_went_to_the_published_format_and_back_give_the_same_chains(trees: list[Tree]) -> None:
    """What that code would read of our trees, and what we read of its trees."""
    for tree in trees:
        question = example(tree.example_id)
        line, _ = export_tree(tree, question, image="x.png")
        stated = stated_plainly(line["tree"])
        imported, _ = import_tree(line, question, policy="teacher")
        for one in (tree, imported):
            chains = linearize([one], CONFIG.model_copy(update={"validation_share": 0.0}), ChainTask(PROMPT), seed=0)
            assert {chain.segments[-1].text for chain in chains.train} == stated


async def test_a_tree_that_the_published_code_wrote_gives_its_chains() -> None:
    """Thoughts without tags, an answer without its closing tag, and a rollout that never answered."""
    question = "What is it?\n<image>"
    right = [question, "<think>\nLook at (1, 2).\n</think>", "No tags here (3,4).", "<answer> pink"]
    wrong = [question, "<think>\nLook at (1, 2).\n</think>", "<think>Stuck at (5, 6).</think>", "No."]
    rollouts = [
        {"final_answer": "pink", "reward": 1.0, "ephemeral_texts": right},
        {"final_answer": "No.", "reward": 0.0, "ephemeral_texts": wrong},
    ]
    common = {"is_terminal": False, "visit_count": 2, "value": 0.5, "used_coords": []}
    child = {"thought_text": right[1], "rollouts": rollouts, "children": [], **common}
    tree = {"thought_text": question, "rollouts": [], "children": [child], **common}
    line = {
        "id": "one",
        "question": question,
        "image": "x.png",
        "true_answer": "pink",
        "system_prompt": "",
        "tree": tree,
    }
    imported, _ = import_tree(line, example(), policy="teacher")
    chains = linearize([imported], CONFIG.model_copy(update={"validation_share": 0.0}), ChainTask(PROMPT), seed=0)
    assert [chain.segments[-1].text for chain in chains.train] == [
        f"<think>\nLook at (1, 2). Stuck at (5, 6).\n{PHRASE}\nLook at (1, 2). No tags here (3,4).\n</think>\n"
        "<answer> pink </answer>",
        "<think>\nLook at (1, 2). No tags here (3,4).\n</think>\n<answer> pink </answer>",
    ]
    assert {chain.segments[-1].text for chain in chains.train} == stated_plainly(tree)
    ours = linearize([imported], LinearizeConfig(validation_share=0.0), ChainTask(PROMPT), seed=0).train
    assert {chain.turns[0].turn.thought for chain in ours} == {
        "Look at (1, 2). No tags here (3,4).",
        f"Look at (1, 2). Stuck at (5, 6). {PHRASE} No tags here (3,4).",
    }
