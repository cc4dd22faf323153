"""The zoom environment's opaque state: what an episode remembers, sealed against change.

An episode lives in no server: a client carries its state from step to step, and any replica with the
same key can go on. `Seal.encode` writes a version byte, an HMAC-SHA256 and the protobuf; `Seal.decode` refuses
anything that is not exactly what was sealed under the same key.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

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
MAX_KNOWN = 4096
"""States that a seal remembers; about a kilobyte each."""
LOCAL_KEY = b"vigorl local episodes"
"""Key where none is configured: good for one user's machine, no protection against a hostile client.
Replicas of a shared service take theirs from a secret; a random key per process would break failover."""

_VERSION_BYTE = bytes([VERSION])
_MAC_BYTES = hashlib.sha256().digest_size
_HEADER_BYTES = 1 + _MAC_BYTES


class StateSettings(Section):
    """The key of an installation (`VIGORL_STATE__KEY`)."""

    key: SecretStr


def configured_key() -> bytes:
    """The key of this process's surroundings, or the local one."""
    settings = section_from_environment(StateSettings, "state")
    return LOCAL_KEY if settings is None else settings.key.get_secret_value().encode()


@dataclass(frozen=True)
class EpisodeSetting:
    """What an episode is about; the same from its start to its end, so what follows from it is worked out once."""

    image_sha256: str
    original_size: Size
    mode: str
    config: ZoomConfig
    resize: ResizeRule

    @cached_property
    def model_size(self) -> Size:
        return self.resize.model_size(self.original_size)

    @cached_property
    def payload(self) -> bytes:
        """The first fields of the state's message."""
        message = zoom_pb2.EpisodeState(
            image_sha256=self.image_sha256,
            original_size=convert.size_to_proto(self.original_size),
            mode=self.mode,
            config=zoom_to_proto(self.config),
            resize=convert.resize_to_proto(self.resize),
        )
        return message.SerializeToString(deterministic=True)


@dataclass(frozen=True, slots=True)
class EpisodeState:
    """What an episode depends on, and how far it is. Points are in the model frame.

    `turns` counts all turns so far, `invalid_turns` those of them that could not be acted on. `over` says that none
    can follow.
    """

    setting: EpisodeSetting
    turns: int = 0
    invalid_turns: int = 0
    zoomed: tuple[Point, ...] = ()
    over: bool = False

    def after_turn(self, *, invalid: bool = False, zoomed: Point | None = None, over: bool = False) -> EpisodeState:
        """The state one turn later."""
        points = self.zoomed if zoomed is None else (*self.zoomed, zoomed)
        return EpisodeState(self.setting, self.turns + 1, self.invalid_turns + invalid, points, over)


class Seal:
    """Seals states under one key, and opens them.

    Safe to share among threads. It remembers the last ones: siblings and rollouts go on from the same states again
    and again, mostly where those were sealed.
    """

    def __init__(self, key: bytes = LOCAL_KEY) -> None:
        self._begun_mac = hmac.new(key, _VERSION_BYTE, hashlib.sha256)
        self._known: dict[bytes, EpisodeState] = {}
        self._lock = Lock()

    def encode(self, state: EpisodeState) -> bytes:
        """Sealed bytes; equal states give equal bytes under one key."""
        progress = zoom_pb2.EpisodeState(
            turns=state.turns,
            invalid_turns=state.invalid_turns,
            zoomed=[convert.point_to_proto(point) for point in state.zoomed],
            over=state.over,
        ).SerializeToString(deterministic=True)
        # The setting's field numbers are the lower ones, so this is the message as it would be written whole.
        payload = state.setting.payload + progress
        data = _VERSION_BYTE + self._mac(payload) + payload
        self._remember(data, state)
        return data

    def decode(self, data: bytes) -> EpisodeState:
        """The state that `encode` sealed. Raises EpisodeError (STATE_INVALID) for anything else."""
        state = self._known.get(data)
        if state is None:
            state = self._open(data)
            self._remember(data, state)
        return state

    def _open(self, data: bytes) -> EpisodeState:
        if not _HEADER_BYTES < len(data) <= MAX_STATE_BYTES:
            raise _refused(f"expected {_HEADER_BYTES + 1} to {MAX_STATE_BYTES} bytes, found {len(data)}")
        if data[0] != VERSION:
            raise _refused(f"expected version {VERSION}, found {data[0]}; start the episode again")
        payload = data[_HEADER_BYTES:]
        if not hmac.compare_digest(data[1:_HEADER_BYTES], self._mac(payload)):
            raise _refused("it was changed, or sealed under another key; all replicas must share one state key")
        try:
            proto = zoom_pb2.EpisodeState.FromString(payload)
        except DecodeError:
            raise _refused("it is sealed, but holds no episode") from None
        setting = EpisodeSetting(
            image_sha256=proto.image_sha256,
            original_size=convert.size_from_proto(proto.original_size),
            mode=proto.mode,
            config=zoom_from_proto(proto.config),
            resize=convert.resize_from_proto(proto.resize),
        )
        return EpisodeState(
            setting,
            turns=proto.turns,
            invalid_turns=proto.invalid_turns,
            zoomed=tuple(convert.point_from_proto(point) for point in proto.zoomed),
            over=proto.over,
        )

    def _remember(self, data: bytes, state: EpisodeState) -> None:
        with self._lock:
            while len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[data] = state

    def _mac(self, payload: bytes) -> bytes:
        # Not `hmac.digest`: it lets go of the interpreter's lock even for a few bytes, and gets it back only once a
        # busy thread gives way; on an event loop beside decoding threads that is most of a step.
        mac = self._begun_mac.copy()
        mac.update(payload)
        return mac.digest()


def _refused(problem: str) -> EpisodeError:
    return EpisodeError(f"this is no state of an episode here: {problem}", reason="STATE_INVALID")
