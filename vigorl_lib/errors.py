"""The one error root and its few categories.

Every failure that a user or a client can meet is one of these. It knows its category, a stable
`reason` in UPPER_SNAKE_CASE (part of the API, see docs/errors.md), the dynamic facts as `metadata`,
and whether it is an infrastructure fault (another try, perhaps elsewhere, may succeed) or a data
fault (it will fail the same way again). The mapping to gRPC codes lives in `vigorl_lib.rpc.errors`;
nothing here knows about gRPC.
"""

from __future__ import annotations


class VigorlError(Exception):
    """Root of all errors raised on purpose.

    `message` says what was expected, what was found and what to change. `reason` names the failure
    for programs. `metadata` repeats the dynamic parts of the message so that nobody parses prose.
    """

    category = "internal"
    infrastructure = False

    def __init__(self, message: str, *, reason: str, infrastructure: bool | None = None, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = {key: str(value) for key, value in metadata.items()}
        if infrastructure is not None:
            self.infrastructure = infrastructure

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.reason, self.infrastructure, self.metadata)


def _rebuild(
    cls: type[VigorlError], message: str, reason: str, infrastructure: bool, metadata: dict[str, str]
) -> VigorlError:
    return cls(message, reason=reason, infrastructure=infrastructure, **metadata)


class ConfigError(VigorlError, ValueError):
    """A recipe, an override or a command line that cannot mean anything."""

    category = "config"


class DataError(VigorlError, ValueError):
    """An input that will never work: an unreadable image, a bad record, a point outside."""

    category = "data"


class PolicyError(VigorlError, RuntimeError):
    """The policy engine refused or failed."""

    category = "policy"


class EpisodeError(VigorlError, RuntimeError):
    """The environment could not act: a state that is not ours, an image it has not got."""

    category = "environment"


class RewardError(VigorlError, RuntimeError):
    """A reward or a judge could not be computed."""

    category = "reward"


class StorageError(VigorlError, OSError):
    """Storage did not do as told: unreachable, refused, missing or corrupt."""

    category = "storage"
    infrastructure = True


class ObjectNotFound(StorageError):
    """No object under that key."""

    infrastructure = False


class CorruptObject(StorageError):
    """Bytes whose digest or size is not what its manifest says."""

    infrastructure = False


class RemoteError(VigorlError, RuntimeError):
    """A failure told by another process, of a category that this client has no class for."""

    category = "remote"


class InternalError(VigorlError, RuntimeError):
    """Our own mistake: a broken invariant."""

    category = "internal"
