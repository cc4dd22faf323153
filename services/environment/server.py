"""EnvironmentService over an Environment: convert, call, convert."""

from __future__ import annotations

from typing import Any

from vigorl_lib.environment.base import Environment
from vigorl_lib.environment.convert import episode_to_proto, outcome_to_proto, zoom_from_proto
from vigorl_lib.rpc.convert import crop_to_proto, image_inline, point_from_proto, resize_from_proto
from vigorl_lib.rpc.gen.vigorl.environment.v1 import environment_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.environment.v1.environment_service_pb2_grpc import EnvironmentServiceServicer
from vigorl_lib.rpc.images import ImageCache


class EnvironmentServer(EnvironmentServiceServicer):
    def __init__(self, environment: Environment, images: ImageCache) -> None:
        self._environment = environment
        self._images = images

    async def StartEpisode(self, request: pb.StartEpisodeRequest, context: Any) -> pb.StartEpisodeResponse:
        (image,) = await self._images.resolve_all([request.image])
        episode = await self._environment.start(
            image,
            mode=request.mode,
            config=zoom_from_proto(request.config),
            resize=resize_from_proto(request.resize),
        )
        return episode_to_proto(episode)

    async def Step(self, request: pb.StepRequest, context: Any) -> pb.StepResponse:
        (image,) = await self._images.resolve_all([request.image])
        return outcome_to_proto(await self._environment.step(request.state, request.policy_text, image))

    async def CropImage(self, request: pb.CropImageRequest, context: Any) -> pb.CropImageResponse:
        (image,) = await self._images.resolve_all([request.image])
        crop, shown = await self._environment.crop(
            image,
            point_from_proto(request.center),
            config=zoom_from_proto(request.config),
            resize=resize_from_proto(request.resize),
        )
        return pb.CropImageResponse(crop=crop_to_proto(crop), image=image_inline(shown))
