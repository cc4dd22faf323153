"""The zoom environment behind gRPC: the Environment protocol over EnvironmentService.

An image always goes to the same replica as long as that one serves, so that each decodes its own share of the images
once; any other goes on with an episode, whose state travels with the calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import grpc.aio

from vigorl_lib.domain.geometry import Crop, Point, ResizeRule
from vigorl_lib.domain.image import Image
from vigorl_lib.environment.base import Episode, Outcome
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.convert import episode_from_proto, outcome_from_proto, zoom_to_proto
from vigorl_lib.rpc.channels import Connection, Connections
from vigorl_lib.rpc.convert import ImageToProto, crop_from_proto, point_to_proto, resize_to_proto
from vigorl_lib.rpc.gen.vigorl.environment.v1 import environment_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.environment.v1.environment_service_pb2_grpc import EnvironmentServiceStub
from vigorl_lib.rpc.images import received_image
from vigorl_lib.rpc.replicas import Replicas, Resolve, resolve_host

if TYPE_CHECKING:
    # The typed face of the stub on an asyncio channel; it exists in the type stubs only.
    from vigorl_lib.rpc.gen.vigorl.environment.v1.environment_service_pb2_grpc import EnvironmentServiceAsyncStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class EnvironmentClient:
    """`targets` is `host:port`, several with commas, or `dns:///name:port` of a headless service.

    Connections that are handed in stay open when the client closes. Raises ConfigError (TARGET_INVALID).
    """

    def __init__(
        self, targets: str, *, connections: Connections | None = None, resolve: Resolve = resolve_host
    ) -> None:
        self._pool = Connections() if connections is None else connections
        self._owns_pool = connections is None
        self._replicas = Replicas(targets, self._pool, resolve=resolve)

    async def start(self, image: Image, *, mode: str, config: ZoomConfig, resize: ResizeRule) -> Episode:
        def request(encode: ImageToProto) -> pb.StartEpisodeRequest:
            return pb.StartEpisodeRequest(
                image=encode(image), mode=mode, config=zoom_to_proto(config), resize=resize_to_proto(resize)
            )

        return episode_from_proto(await self._call(image, lambda stub: stub.StartEpisode, request))

    async def step(self, state: bytes, text: str, image: Image) -> Outcome:
        def request(encode: ImageToProto) -> pb.StepRequest:
            return pb.StepRequest(state=state, policy_text=text, image=encode(image))

        return outcome_from_proto(await self._call(image, lambda stub: stub.Step, request), received_image)

    async def crop(self, image: Image, center: Point, *, config: ZoomConfig, resize: ResizeRule) -> tuple[Crop, Image]:
        def request(encode: ImageToProto) -> pb.CropImageRequest:
            return pb.CropImageRequest(
                image=encode(image),
                center=point_to_proto(center),
                config=zoom_to_proto(config),
                resize=resize_to_proto(resize),
            )

        answer = await self._call(image, lambda stub: stub.CropImage, request)
        return crop_from_proto(answer.crop), received_image(answer.image)

    async def close(self) -> None:
        await self._replicas.close()
        if self._owns_pool:
            await self._pool.close()

    async def _call(
        self,
        image: Image,
        method: Callable[[EnvironmentServiceAsyncStub], grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT]],
        request: Callable[[ImageToProto], RequestT],
    ) -> ResponseT:
        async def ask(connection: Connection, timeout_s: float) -> ResponseT:
            stub: EnvironmentServiceAsyncStub = connection.stub(EnvironmentServiceStub)
            return await connection.sent_images.call(
                lambda encode: connection.call(method(stub), request(encode), timeout_s=timeout_s)
            )

        return await self._replicas.call(image.sha256, ask, timeout_s=self._pool.config.quick_timeout_s)
