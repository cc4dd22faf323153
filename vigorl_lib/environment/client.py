"""The zoom environment behind gRPC: the Environment protocol over EnvironmentService.

With several targets an image always goes to the same one as long as the list stays (rendezvous
hashing of its digest), so that each replica decodes its own share of the images once.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from vigorl_lib.domain.geometry import Crop, Point, ResizeRule
from vigorl_lib.domain.image import Image
from vigorl_lib.environment.base import Episode, Outcome
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.convert import episode_from_proto, outcome_from_proto, zoom_to_proto
from vigorl_lib.rpc.channels import Client, Connection
from vigorl_lib.rpc.convert import crop_from_proto, point_to_proto, resize_to_proto
from vigorl_lib.rpc.gen.vigorl.environment.v1 import environment_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.environment.v1.environment_service_pb2_grpc import EnvironmentServiceStub
from vigorl_lib.rpc.images import received_image

if TYPE_CHECKING:
    # The typed face of the stub on an asyncio channel; it exists in the type stubs only.
    from vigorl_lib.rpc.gen.vigorl.environment.v1.environment_service_pb2_grpc import EnvironmentServiceAsyncStub


class EnvironmentClient(Client):
    async def start(self, image: Image, *, mode: str, config: ZoomConfig, resize: ResizeRule) -> Episode:
        connection = self._place(image)
        answer = await connection.sent_images.call(
            lambda encode: connection.call(
                _stub(connection).StartEpisode,
                pb.StartEpisodeRequest(
                    image=encode(image), mode=mode, config=zoom_to_proto(config), resize=resize_to_proto(resize)
                ),
            )
        )
        return episode_from_proto(answer)

    async def step(self, state: bytes, text: str, image: Image) -> Outcome:
        connection = self._place(image)
        answer = await connection.sent_images.call(
            lambda encode: connection.call(
                _stub(connection).Step, pb.StepRequest(state=state, policy_text=text, image=encode(image))
            )
        )
        return outcome_from_proto(answer, received_image)

    async def crop(self, image: Image, center: Point, *, config: ZoomConfig, resize: ResizeRule) -> tuple[Crop, Image]:
        connection = self._place(image)
        answer = await connection.sent_images.call(
            lambda encode: connection.call(
                _stub(connection).CropImage,
                pb.CropImageRequest(
                    image=encode(image),
                    center=point_to_proto(center),
                    config=zoom_to_proto(config),
                    resize=resize_to_proto(resize),
                ),
            )
        )
        return crop_from_proto(answer.crop), received_image(answer.image)

    def _place(self, image: Image) -> Connection:
        if len(self._connections) == 1:
            return self._connections[0]
        return max(self._connections, key=lambda one: hashlib.sha256(f"{one.target} {image.sha256}".encode()).digest())


def _stub(connection: Connection) -> EnvironmentServiceAsyncStub:
    stub: EnvironmentServiceAsyncStub = connection.stub(EnvironmentServiceStub)
    return stub
