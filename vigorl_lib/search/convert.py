"""Tasks, search settings and trees to protobuf and back; see `vigorl_lib.rpc.convert` for the rules."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from google.protobuf.message import Message as ProtoMessage
from pydantic import BaseModel, ValidationError

from vigorl_lib.domain.trajectory import Prefix
from vigorl_lib.environment.convert import zoom_from_proto, zoom_to_proto
from vigorl_lib.rollout.task import FewShotExample, TaskConfig
from vigorl_lib.rpc import convert
from vigorl_lib.rpc.convert import ImageFromProto, image_by_digest
from vigorl_lib.rpc.gen.vigorl.search.v1 import search_service_pb2, task_pb2, tree_pb2
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.coordinator import SearchProgress
from vigorl_lib.search.tree import Cost, Node, Rollout, Tree

SectionT = TypeVar("SectionT", bound=BaseModel)


def task_to_proto(task: TaskConfig) -> task_pb2.TaskSettings:
    return task_pb2.TaskSettings(
        **task.model_dump(exclude={"zoom", "few_shot"}),
        zoom=zoom_to_proto(task.zoom),
        few_shot=[task_pb2.FewShotExample(**example.model_dump()) for example in task.few_shot],
    )


def task_from_proto(proto: task_pb2.TaskSettings) -> TaskConfig:
    """Raises DataError (REQUEST_INVALID) for settings that `TaskConfig` refuses."""
    few_shot = tuple(_section(FewShotExample, example) for example in proto.few_shot)
    return _section(TaskConfig, proto, zoom=zoom_from_proto(proto.zoom), few_shot=few_shot)


def search_to_proto(config: SearchConfig) -> task_pb2.SearchSettings:
    return task_pb2.SearchSettings(**config.model_dump())


def search_from_proto(proto: task_pb2.SearchSettings) -> SearchConfig:
    """Raises DataError (REQUEST_INVALID) for settings that `SearchConfig` refuses."""
    return _section(SearchConfig, proto)


def _section(schema: type[SectionT], proto: ProtoMessage, **nested: object) -> SectionT:
    """Settings whose fields have the names of the message's; all of them, so that none falls back to a default."""
    values = {name: getattr(proto, name) for name in schema.model_fields if name not in nested}
    try:
        return schema.model_validate(values | nested)
    except ValidationError as error:
        first = error.errors()[0]
        raise convert.invalid(".".join(map(str, first["loc"])), first["msg"], first.get("input")) from None


def progress_to_proto(progress: SearchProgress) -> search_service_pb2.SearchDatasetResponse:
    return search_service_pb2.SearchDatasetResponse(
        done=progress.done,
        total=progress.total,
        failed=progress.failed,
        solved=progress.solved,
        resumed=progress.resumed,
        elapsed=timedelta(seconds=progress.seconds),
        failures=progress.failures,
        broken_rollouts=progress.broken_rollouts,
        trees_per_second=progress.trees_per_s,
        eta=None if progress.eta_s is None else timedelta(seconds=progress.eta_s),
    )


def progress_from_proto(proto: search_service_pb2.SearchDatasetResponse) -> SearchProgress:
    seconds = proto.elapsed.ToTimedelta().total_seconds()
    counts = (proto.done, proto.total, proto.failed, proto.solved, proto.resumed)
    return SearchProgress(*counts, seconds, dict(proto.failures), dict(proto.broken_rollouts))


def tree_to_proto(tree: Tree) -> tree_pb2.SearchTree:
    return tree_pb2.SearchTree(
        tree_id=tree.tree_id,
        example_id=tree.example_id,
        policy=tree.policy,
        nodes=[_node_to_proto(node) for node in tree.nodes],
        rollouts=[
            tree_pb2.TreeRollout(
                node=rollout.node,
                trajectory=convert.trajectory_to_proto(rollout.trajectory, image_by_digest),
                value=rollout.value,
            )
            for rollout in tree.rollouts
        ],
        simulations=tree.simulations,
        end_reason=tree.end,
        error=tree.error,
        turns=tree.cost.turns,
        tokens=tree.cost.tokens,
    )


def tree_from_proto(proto: tree_pb2.SearchTree, image: ImageFromProto) -> Tree:
    nodes: list[Node] = []
    for index, one in enumerate(proto.nodes):
        if one.HasField("parent") and one.parent >= index:
            raise convert.invalid("nodes.parent", f"less than {index}", one.parent)
        nodes.append(_node_from_proto(one, index, nodes[one.parent] if one.HasField("parent") else None, image))
    rollouts = [
        Rollout(rollout.node, convert.trajectory_from_proto(rollout.trajectory, image), rollout.value)
        for rollout in proto.rollouts
    ]
    return Tree(
        proto.tree_id,
        proto.example_id,
        proto.policy,
        nodes=nodes,
        rollouts=rollouts,
        simulations=proto.simulations,
        cost=Cost(proto.turns, proto.tokens),
        end=proto.end_reason,
        error=proto.error,
    )


def _node_to_proto(node: Node) -> tree_pb2.TreeNode:
    prefix = node.prefix
    return tree_pb2.TreeNode(
        parent=None if node.parent is None else node.parent.index,
        segments=[convert.segment_to_proto(segment, image_by_digest) for segment in prefix.new_segments],
        turn=None if prefix.record is None else convert.record_to_proto(prefix.record, image_by_digest),
        state=prefix.state,
        seed_path=[
            tree_pb2.SeedName(text=name) if isinstance(name, str) else tree_pb2.SeedName(number=name)
            for name in prefix.seed_path
        ],
        stop_reason=convert.STOP_REASON.to_proto(prefix.stop),
        visit_count=node.visit_count,
        value=node.value,
        exhausted=node.exhausted,
    )


def _node_from_proto(proto: tree_pb2.TreeNode, index: int, parent: Node | None, image: ImageFromProto) -> Node:
    prefix = Prefix(
        parent=None if parent is None else parent.prefix,
        new_segments=tuple(convert.segment_from_proto(segment, image) for segment in proto.segments),
        record=convert.record_from_proto(proto.turn, image) if proto.HasField("turn") else None,
        state=proto.state,
        seed_path=tuple(n.text if n.WhichOneof("name") == "text" else n.number for n in proto.seed_path),
        stop=convert.STOP_REASON.optional(proto.stop_reason),
        depth=0 if parent is None else parent.prefix.depth + 1,
    )
    node = Node(index, prefix, parent, visit_count=proto.visit_count, value=proto.value, exhausted=proto.exhausted)
    if parent is not None:
        parent.children.append(node)
    return node
