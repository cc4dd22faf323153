"""The zoom environment's opaque state: what an episode remembers, sealed against change.

An episode lives in no server: a client carries its state from step to step, and any replica with the
same key can go on. `encode` writes a version byte, an HMAC-SHA256 and the protobuf; `decode` refuses
anything that is not exactly what `encode` wrote under the same key.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache

from google.protobuf.message import DecodeError
from pydantic import SecretStr

from vigorl_lib.config import Section, section_from_environment
from vigorl_lib.domain.geometry import Point, ResizeRule, Size
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.convert import zoom_from_proto, zoom_to_proto
from vigorl_lib.errors import EpisodeError
from vigorl_lib.rpc import convert
from vigorl_lib.rpc.gen.vigorl.environment.v1 import zoom_pb2

VERSION = 1
MAX_STATE_BYTES = 64 << 10
LOCAL_KEY = b"vigorl local episodes"
"""Key where none is configured: good for one user's machine, no protection against a hostile client.
Replicas of a shared service take theirs from a secret; a random key per process would break failover."""

_MAC_BYTES = hashlib.sha256().digest_size
_HEADER_BYTES = 1 + _MAC_BYTES


class StateSettings(Section):
    """The key of an installation (`VIGORL_STATE__KEY`)."""

    key: SecretStr


def configured_key() -> bytes:
    """The key of this process's surroundings, or the local one."""
    settings = section_from_environment(StateSettings, "state")
    return LOCAL_KEY if settings is None else settings.key.get_secret_value().encode()


@dataclass(frozen=True, slots=True)
class EpisodeState:
    """What an episode depends on, and how far it is. Points are in the model frame.

    `turns` counts all turns so far, `invalid_turns` those of them that could not be acted on. `over` says that none
    can follow.
    """

    image_sha256: str
    original_size: Size
    mode: str
    config: ZoomConfig
    resize: ResizeRule
    turns: int = 0
    invalid_turns: int = 0
    zoomed: tuple[Point, ...] = ()
    over: bool = False

    @property
    def model_size(self) -> Size:
        return self.resize.model_size(self.original_size)


def encode(state: EpisodeState, key: bytes = LOCAL_KEY) -> bytes:
    """Sealed bytes; equal states give equal bytes under one key."""
    payload = zoom_pb2.EpisodeState(
        image_sha256=state.image_sha256,
        original_size=convert.size_to_proto(state.original_size),
        mode=state.mode,
        config=zoom_to_proto(state.config),
        resize=convert.resize_to_proto(state.resize),
        turns=state.turns,
        invalid_turns=state.invalid_turns,
        zoomed=[convert.point_to_proto(point) for point in state.zoomed],
        over=state.over,
    ).SerializeToString(deterministic=True)
    return bytes([VERSION]) + _mac(payload, key) + payload


# Siblings and rollouts go on from the same bytes again and again.
@lru_cache(maxsize=1024)
def decode(data: bytes, key: bytes = LOCAL_KEY) -> EpisodeState:
    """The state that `encode` sealed. Raises EpisodeError (STATE_INVALID) for anything else."""
    if not _HEADER_BYTES < len(data) <= MAX_STATE_BYTES:
        raise _refused(f"expected {_HEADER_BYTES + 1} to {MAX_STATE_BYTES} bytes, found {len(data)}")
    if data[0] != VERSION:
        raise _refused(f"expected version {VERSION}, found {data[0]}; start the episode again")
    payload = data[_HEADER_BYTES:]
    if not hmac.compare_digest(data[1:_HEADER_BYTES], _mac(payload, key)):
        raise _refused("it was changed, or sealed under another key; all replicas must share one state key")
    try:
        proto = zoom_pb2.EpisodeState.FromString(payload)
    except DecodeError:
        raise _refused("it is sealed, but holds no episode") from None
    return EpisodeState(
        image_sha256=proto.image_sha256,
        original_size=convert.size_from_proto(proto.original_size),
        mode=proto.mode,
        config=zoom_from_proto(proto.config),
        resize=convert.resize_from_proto(proto.resize),
        turns=proto.turns,
        invalid_turns=proto.invalid_turns,
        zoomed=tuple(convert.point_from_proto(point) for point in proto.zoomed),
        over=proto.over,
    )


def _mac(payload: bytes, key: bytes) -> bytes:
    # Not `hmac.digest`: it lets go of the interpreter's lock even for a few bytes, and gets it back only once a busy
    # thread gives way; on an event loop beside decoding threads that is most of a step.
    return hmac.new(key, bytes([VERSION]) + payload, hashlib.sha256).digest()


def _refused(problem: str) -> EpisodeError:
    return EpisodeError(f"this is no state of an episode here: {problem}", reason="STATE_INVALID")
