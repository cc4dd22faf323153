"""Trees in the published code's format, made for these tests after its description."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.search.support import WrittenPolicy, answer, example, scenes, search_one, searching, zoom
from vigorl_lib.cli.main import cli
from vigorl_lib.data.chains import read_chains
from vigorl_lib.data.datasets import write_dataset
from vigorl_lib.domain.geometry import Frame, Point
from vigorl_lib.domain.grammar import Answer, Continue
from vigorl_lib.domain.trajectory import StopReason
from vigorl_lib.errors import DataError
from vigorl_lib.search.archive import read_run
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.reference_trees import export_tree, import_tree
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout

QUESTION = "<image>\nWhat is it, one?"
LEFT = "<think>\nI look left (10, 20).\n</think>"
RIGHT = "<think>\nNow right (30, 40).\n</think>"
PINK, CYAN = "<answer> pink </answer>", "<answer> cyan </answer>"


def rollout(texts: list[str], final: str | None, reward: float, depth: int, same: int, other: int) -> dict[str, Any]:
    return {
        "final_answer": final,
        "reward": reward,
        "ephemeral_texts": [QUESTION, *texts],
        "ephemeral_depth": len(texts),
        "depth": depth,
        "num_same_points": same,
        "num_different_points": other,
    }


def node(text: str, visits: int, value: float, **rest: Any) -> dict[str, Any]:
    empty = {"is_terminal": False, "rollouts": [], "children": [], "used_coords": []}
    return {"thought_text": text, "visit_count": visits, "value": value, **empty, **rest}


def line() -> dict[str, Any]:
    left = node(
        LEFT,
        2,
        0.5,
        used_coords=["(10, 20)"],
        rollouts=[
            rollout([LEFT, RIGHT, PINK], "pink", 1.0, 1, 0, 1),
            rollout([LEFT, "hmm (10, 20), no tags", RIGHT], None, 0.0, 1, 1, 1),
        ],
        children=[node(RIGHT, 0, 0.0, used_coords=["(10, 20)", "(30, 40)"])],
    )
    final = node(CYAN, 2, 0.0, is_terminal=True, rollouts=[rollout([CYAN], "cyan", 0.0, 1, 0, 0)])
    return {
        "question": QUESTION,
        "image": "images/one.png",
        "true_answer": "pink",
        "tree": node(QUESTION, 4, 0.25, children=[left, final]),
        "system_prompt": "Look closely.",
        "global_search_time": 12.5,
        "id": "one",
    }


def test_an_imported_tree_goes_out_as_it_came_in_but_for_what_is_counted() -> None:
    tree, lost = import_tree(line(), example(), policy="qwen")
    assert lost == {"global_search_time": 1}
    out, dropped = export_tree(tree, example(), image="images/one.png")
    expected = line()
    del expected["global_search_time"]
    assert json.loads(json.dumps(out)) == expected
    assert not dropped


def test_texts_become_turns_with_their_points_and_answers() -> None:
    tree, _ = import_tree(line(), example(), policy="qwen")
    assert [n.prefix.depth for n in tree.nodes] == [0, 1, 1, 2]
    left = tree.nodes[1].prefix.record
    assert left is not None
    assert (left.turn.thought, left.turn.action) == ("I look left (10, 20).", Continue())
    assert left.turn.points == (Point(10, 20, Frame.MODEL),)
    assert tree.nodes[2].terminal
    right, broken, wrong = (r.trajectory for r in tree.rollouts)
    assert (right.answer, right.stop, tree.rollouts[0].value) == ("pink", StopReason.ANSWERED, 1.0)
    assert (broken.answer, broken.stop, len(broken.turns)) == (None, StopReason.MAX_TURNS, 3)
    assert wrong.turns[-1].turn.action == Answer("cyan")
    assert tree.solved
    assert right.segments[0].images == (example().images[0].without_data(),)


@pytest.mark.parametrize("final", ["pink", "<answer>pink", "<think> so. </think> <answer> pink </answer>"])
def test_an_answer_is_read_however_it_is_tagged(final: str) -> None:
    given = line()
    given["tree"]["children"][0]["rollouts"][0] = rollout([LEFT, final], "pink", True, 1, 0, 0)
    tree, _ = import_tree(given, example(), policy="qwen")
    assert tree.rollouts[0].trajectory.answer == "pink"
    assert tree.rollouts[0].value == 1.0


def test_a_field_that_the_way_back_would_change_is_counted() -> None:
    given = line()
    given["extra"] = 1
    given["tree"]["children"][0]["rollouts"][0]["num_same_points"] = 9
    given["tree"]["children"][0]["used_coords"] = ["(1, 1)"]
    _, lost = import_tree(given, example(), policy="qwen")
    assert lost == {"global_search_time": 1, "extra": 1, "num_same_points": 1, "used_coords": 1}


def test_a_line_that_is_no_tree_says_what_is_wrong() -> None:
    broken = copy.deepcopy(line())
    del broken["tree"]["children"][0]["thought_text"]
    with pytest.raises(DataError, match=r"f:3: tree: children\[0\].*'thought_text' is missing"):
        import_tree(broken, example(), policy="qwen", where="f:3")


async def test_a_tree_of_ours_tells_what_the_format_has_no_place_for() -> None:
    def write(prompt: Any, index: int) -> str:
        return zoom(20 + 60 * index, 30) if len(prompt) == 1 else answer("pink", "I see (20, 30).")

    search = searching(WrittenPolicy(write), SearchConfig(simulations=1, children=2, rollouts_per_child=1))
    tree, _ = await search_one(search)
    out, lost = export_tree(tree, example(), image="x")
    # Each crop stands at its node and in the rollout through it.
    assert lost == {"crops": 4, "thoughts of answers": 2}
    first = out["tree"]["children"][0]
    assert first["thought_text"] == tree.nodes[1].prefix.record.text  # type: ignore[union-attr]
    assert first["rollouts"][0]["ephemeral_texts"][-1] == "<answer> pink </answer>"
    assert (first["visit_count"], out["tree"]["visit_count"]) == (1, 2)
    again, _ = import_tree(out, example(), policy="ours")
    assert [(n.visit_count, n.value) for n in again.nodes] == [(n.visit_count, n.value) for n in tree.nodes]


def test_the_commands_bring_trees_in_and_out(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "root")
    images = ImageStore(storage)
    (scene,) = scenes(images, 1)
    write_dataset(storage, images, "scenes", "train", [scene])
    source = tmp_path / "in"
    source.mkdir()
    kept = line() | {"id": scene.example_id, "true_answer": scene.truth.answer}
    texts = [json.dumps(one) for one in (kept, line() | {"id": "other"}, {"id": 3, "error": "timeout"}, kept)]
    (source / "rollouts.jsonl").write_text("\n".join(texts))
    common = ["--root", storage.uri, "--run-id", "r", "--set", "dataset.name=scenes"]

    def run(*arguments: str) -> Any:
        outcome = CliRunner().invoke(cli, ["trees", *arguments, *common], catch_exceptions=False)
        assert outcome.exit_code == 0, outcome.output
        return json.loads(outcome.output)

    told = run("import", str(source))
    assert (told["trees"], told["duplicates"]) == (1, 1)
    assert told["not carried"]["trees of unknown examples"] == 1
    assert told["not carried"]["lines that tell an error"] == 1
    (tree,) = read_run(RunLayout(storage, "r"))
    assert (tree.end, tree.policy, len(tree.rollouts)) == ("imported", "reference", 3)
    for mode in ("standard", "reference"):
        arguments = ["linearize", *common, "--set", f"linearize.mode={mode}", "--set", "linearize.validation_share=0"]
        made = CliRunner().invoke(cli, [*arguments, "--out", mode], catch_exceptions=False)
        assert made.exit_code == 0, made.output
        assert "pink" in read_chains(storage, f"runs/r/chains/{mode}-train.parquet")[0].segments[-1].text
    assert run("export", str(tmp_path / "out"))["trees"] == 1
    (written,) = (tmp_path / "out").iterdir()
    out = json.loads(written.read_text())
    assert out["tree"] == kept["tree"]
    assert storage.exists(out["image"])
    refused = CliRunner().invoke(cli, ["trees", "import", str(source), *common])
    assert refused.exception is not None
    assert "another --run-id" in str(refused.exception)
