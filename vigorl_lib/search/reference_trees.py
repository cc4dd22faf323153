"""Trees in the JSON of the published ViGoRL code (arXiv 2505.23678), to our trees and back.

Its search writes one object a tree: a node has its text, its statistics, its rollouts as lists of texts, and its
children. Both directions count by name what they do not carry. An imported tree can be read and linearized, not
searched on: the environment's state and the seeds are not in it. Points are taken to be in the model frame, as that
code takes them. Where files lie is the caller's business.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vigorl_lib.data.fields import Fields
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.grammar import CLASSIC, Answer, Continue, Turn, parse_turn
from vigorl_lib.domain.trajectory import Message, Origin, Prefix, Role, Segment, StopReason, Trajectory, TurnRecord
from vigorl_lib.domain.wire import ANSWER_CLOSE, ANSWER_OPEN, IMAGE_PLACEHOLDER, THINK_CLOSE, THINK_OPEN
from vigorl_lib.search.tree import Node, Rollout, Tree

IMPORTED = "imported"
"""Why an imported tree ended: its own search did not say."""

_TAG = re.compile("|".join((THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)))
_POINT = re.compile(r"\(\s*-?\d+\s*,\s*-?\d+\s*\)")
"""Its search knows whole numbers only, and compares points by their text."""

Line = dict[str, Any]


def import_tree(line: Line, example: Example, *, policy: str, where: str = "line") -> tuple[Tree, Counter[str]]:
    """Our tree of one line, and by field what the way back would not give again.

    `example` is the one that the line's `id` names. Raises DataError (RECORD_INVALID).
    """
    fields = Fields(line, where)
    top = fields.nested("tree")
    tree = Tree(f"{IMPORTED}/{example.example_id}", example.example_id, policy, end=IMPORTED)
    messages = (
        Message(Role.SYSTEM, (fields.text("system_prompt", ""),)),
        Message(Role.USER, (*(image.without_data() for image in example.images), f"\n{_question(fields)}")),
    )
    tree.open(Prefix(None, (Segment(Origin.PROMPT, messages),), None, b"", ()))
    _statistics(tree.root, top)
    waiting = [(top, tree.root)]
    while waiting:
        part, node = waiting.pop(0)
        for number, rollout in enumerate(part.objects("rollouts", ())):
            tree.rollouts.append(_read_rollout(tree, node, rollout, number, example))
        waiting += [(child, _add(tree, node, child)) for child in part.objects("children", ())]
    again, _ = export_tree(tree, example, image=fields.text("image", ""))
    return tree, _differences(line, again, "line")


def export_tree(tree: Tree, example: Example, *, image: str) -> tuple[Line, Counter[str]]:
    """The line of a tree, and by name what it has no place for. `image` is the path that it gives to the image."""
    lost: Counter[str] = Counter()
    system, question = "", ""
    for message in tree.root.prefix.segments[0].messages:
        if message.role is Role.SYSTEM:
            system = message.text
        elif message.role is Role.USER:
            question = f"{IMAGE_PLACEHOLDER}\n{message.text.strip()}"
    written: list[Line] = []
    for node in tree.nodes:
        written.append(_write_node(tree, node, question, lost))
        if node.parent is not None:
            written[node.parent.index]["children"].append(written[-1])
    lost["images"] += len(example.images) - 1
    line = {
        "question": question,
        "image": image,
        "true_answer": example.truth.answer,
        "tree": written[0],
        "system_prompt": system,
        "id": example.example_id,
    }
    return line, +lost


def _question(fields: Fields) -> str:
    return fields.text("question").strip().removeprefix(IMAGE_PLACEHOLDER).removesuffix(IMAGE_PLACEHOLDER).strip()


def _statistics(node: Node, fields: Fields) -> None:
    node.visit_count, node.value = fields.integer("visit_count"), fields.number("value")


def _add(tree: Tree, parent: Node, fields: Fields) -> Node:
    text, terminal = fields.text("thought_text"), fields.flag("is_terminal", False)
    prefix = Prefix(
        parent=parent.prefix,
        new_segments=(_said(text),),
        record=_record(text, final=terminal),
        state=b"",
        seed_path=(),
        stop=StopReason.ANSWERED if terminal else None,
        depth=parent.prefix.depth + 1,
    )
    node = Node(len(tree.nodes), prefix, parent)
    _statistics(node, fields)
    tree.nodes.append(node)
    parent.children.append(node)
    return node


def _read_rollout(tree: Tree, node: Node, fields: Fields, number: int, example: Example) -> Rollout:
    texts = fields.items("ephemeral_texts")
    if not all(isinstance(text, str) for text in texts):
        raise fields.error("ephemeral_texts: expected a list of texts")
    if texts and (texts[0].startswith(IMAGE_PLACEHOLDER) or texts[0].endswith(IMAGE_PLACEHOLDER)):
        texts = texts[1:]
    last = texts[-1] if texts else ""
    given = fields.values.get("final_answer")
    answered = bool(texts) and (ANSWER_OPEN in last or (given is not None and _bare(last) == str(given).strip()))
    # Its judge of web actions gives true and false.
    given_reward = fields.values.get("reward")
    reward = float(given_reward) if isinstance(given_reward, bool) else fields.number("reward")
    trajectory = Trajectory(
        trajectory_id=f"{tree.tree_id}/{node.index}.{number}",
        example_id=tree.example_id,
        mode=CLASSIC.name,
        policy=tree.policy,
        segments=(*tree.root.prefix.segments, *map(_said, texts)),
        turns=tuple(_record(text, final=answered and k == len(texts) - 1) for k, text in enumerate(texts)),
        stop=StopReason.ANSWERED if answered else StopReason.MAX_TURNS,
        reward=reward,
        model_size=ResizeRule().model_size(example.images[0].size),
    )
    return Rollout(node.index, trajectory, reward)


def _said(text: str) -> Segment:
    return Segment(Origin.POLICY, (Message(Role.ASSISTANT, (text,)),))


def _record(text: str, *, final: bool) -> TurnRecord:
    """A thought alone unless it is the last text of an answered path, whatever tags it has or lacks."""
    turn = parse_turn(text, CLASSIC, strict=False)
    if not final:
        return TurnRecord(replace(turn, action=Continue()), text, "")
    if isinstance(turn.action, Answer):
        return TurnRecord(turn, text, "")
    return TurnRecord(Turn("", (), Answer(_bare(text))), text, "")


def _bare(text: str) -> str:
    return _TAG.sub("", text).strip()


def _write_node(tree: Tree, node: Node, question: str, lost: Counter[str]) -> Line:
    record = node.prefix.record
    lost["node errors"] += bool(node.error)
    rollouts = []
    for rollout in tree.rollouts:
        if rollout.node == node.index:
            if rollout.failed:
                lost["rollouts that broke off"] += 1
            else:
                rollouts.append(_write_rollout(node, rollout, question, lost))
    return {
        "thought_text": question if record is None else _text(record, lost),
        "is_terminal": node.terminal,
        "value": node.value,
        "visit_count": node.visit_count,
        "rollouts": rollouts,
        "children": [],
        "used_coords": [] if node.terminal else sorted(_used(node, question)),
    }


def _write_rollout(node: Node, rollout: Rollout, question: str, lost: Counter[str]) -> Line:
    trajectory, depth = rollout.trajectory, node.prefix.depth
    texts = [_text(record, lost) for record in trajectory.turns]
    used = _used(node, question)
    points = [point for text in texts[depth:] for point in _POINT.findall(text)]
    repeated = sum(point in used for point in points)
    return {
        "final_answer": trajectory.answer,
        "reward": rollout.value,
        "ephemeral_texts": [question, *texts],
        "ephemeral_depth": len(texts),
        "depth": depth,
        "num_same_points": repeated,
        "num_different_points": len(points) - repeated,
    }


def _text(record: TurnRecord, lost: Counter[str]) -> str:
    """A turn as that code would hold it: it throws away a thought that comes with an answer, and never saw a crop."""
    lost["crops"] += record.crop is not None
    lost["turns that were refused"] += record.invalid is not None
    action = record.turn.action
    if isinstance(action, Answer) and record.turn.thought:
        lost["thoughts of answers"] += 1
        return f"{ANSWER_OPEN} {action.text} {ANSWER_CLOSE}"
    return record.text


def _used(node: Node, question: str) -> set[str]:
    texts = (record.text for record in node.prefix.turns)
    return {point for text in (question, *texts) for point in _POINT.findall(text)}


def _differences(before: object, after: object, name: str) -> Counter[str]:
    """Names of the fields of `before` that `after` lacks or has otherwise, with how often."""
    match before, after:
        case dict(), dict():
            return sum((_differences(value, after.get(key), key) for key, value in before.items()), Counter[str]())
        case list(), list() if name == "used_coords":
            return Counter({name: 1}) if set(before) != set(after) else Counter()
        case list(), list() if len(before) == len(after):
            pairs: Iterator[tuple[object, object]] = zip(before, after, strict=True)
            return sum((_differences(*pair, name) for pair in pairs), Counter[str]())
        case _:
            return Counter() if before == after else Counter({name: 1})
