"""The page of a GRPO step shows its groups, their fate, and each rollout's advantage and versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from tests.pictures import encoded
from vigorl_lib.cli.main import cli
from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.grammar import parse_turn
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, StopReason, Trajectory, TurnRecord
from vigorl_lib.errors import DataError
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.segments import SegmentWriter
from vigorl_lib.training.groups import Group, StepPlan, commit_step, group_record


def rollout(image: Image, number: int, reward: float) -> Trajectory:
    text = f"<think> number {number} at (3, 4) </think>\n<answer> pink </answer>"
    asked = Segment(Origin.PROMPT, (Message(Role.USER, (image, "\nWhich <colour>?")),), token_ids=(1, 2))
    said = Segment(
        Origin.POLICY,
        (Message(Role.ASSISTANT, (text,)),),
        (5, 6),
        logprobs=(-1.0, -1.0),
        policy_version=7,
        trained=True,
    )
    record = TurnRecord(parse_turn(text), text, "end_of_turn")
    made = Trajectory(f"t{number}", "scene-1", "multi_turn", "p", (asked, said), (record,), StopReason.ANSWERED)
    return replace(made, reward=reward, reward_parts={"answer": reward}, model_size=Size(28, 28), outcome="correct")


def test_a_step_is_written_as_a_page(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    images, layout = ImageStore(storage), RunLayout(storage, "run/grpo")
    image = images.put(encoded(40, 30, color=200))
    groups = [
        Group(0, "scene-1", tuple(rollout(image, n, float(n)) for n in range(2))),
        Group(1, "scene-1", tuple(rollout(image, n, 1.0) for n in range(2))),
    ]
    with SegmentWriter(storage, layout.trajectories_of(3)) as writer:
        for group in groups:
            writer.append(group_record(group, images))
    commit_step(layout, StepPlan(3, [0], 2))
    command = ["report", "rollouts", "--step", "3", "--set", f"root={tmp_path}", "--set", "run_id=run"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "runs/run/grpo/rollouts/000003.html").read_text(encoding="utf-8")
    assert "Which &lt;colour&gt;?" in page
    assert "advantage +0.707" in page
    assert "advantage -0.707" in page
    assert "trained on" in page
    assert page.count("not trained") == 2
    assert "left out" in page
    assert "weights 7" in page
    assert "reward_std_in_group" in page
    missing = CliRunner().invoke(cli, [*command[:3], "4", *command[4:]])
    assert isinstance(missing.exception, DataError)
    assert missing.exception.reason == "STEP_MISSING"
