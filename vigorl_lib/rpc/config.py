"""Settings of a server's shell and of a client's channel: addresses, limits, credentials.

What a service does is configured by its own section; this is only how it is reached and protected.
Credentials come from the environment (`VIGORL_AUTH__TOKEN`) or from mounted files, never from a recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from vigorl_lib.config import Section, section_from_environment
from vigorl_lib.errors import ConfigError

MAX_MESSAGE_BYTES = 32 << 20
"""Largest message sent or received; above it gRPC answers RESOURCE_EXHAUSTED before anything is parsed."""


class ServerConfig(Section):
    """How one server listens, what it admits and how it ends."""

    listen: str = "127.0.0.1:0"
    """host:port; port 0 takes a free one."""
    max_concurrent_calls: int = Field(default=512, ge=1)
    """Calls in flight; one more is refused with RESOURCE_EXHAUSTED and a time to wait."""
    min_budget_s: float = Field(default=0.005, ge=0.0)
    """A call whose deadline leaves less than this is refused on arrival."""
    drain_s: float = Field(default=10.0, ge=0.0)
    """Seconds that calls in flight get to finish after SIGTERM."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the Prometheus endpoint; none by default."""
    reflection: bool = True
    """Offer the service descriptions to tools; never together with a token."""
    allow_insecure: bool = False
    """Listen beyond loopback without a token and without TLS."""
    tls_certificate: Path | None = None
    """PEM file of the server's certificate chain; TLS is on when it is set."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM file of the authority whose client certificates are demanded (mTLS)."""
    health_listen: str = ""
    """host:port of a further listener that answers health checks and nothing else, without TLS: for probes that
    cannot speak it, such as the kubelet's. None by default."""

    @model_validator(mode="after")
    def _check_tls(self) -> ServerConfig:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key: TLS is off without them")
        return self


class ClientConfig(Section):
    """How clients reach servers."""

    timeout_s: float = Field(default=300.0, gt=0.0)
    """Deadline of a call that works with a model, its waits for a replica with room included."""
    quick_timeout_s: float = Field(default=30.0, gt=0.0)
    """Deadline of any other call."""
    tls: bool = False
    """Speak TLS and believe the public authorities, as behind an ingress with a public certificate."""
    tls_ca: Path | None = None
    """PEM file of the authority that signed the servers' certificates; TLS is on when it is set."""
    tls_certificate: Path | None = None
    """PEM file of this client's own certificate chain, where the servers demand one (mTLS)."""
    tls_key: Path | None = None
    authority: str = ""
    """Name that the servers' certificates have and requests are for, where it is not the target's own: through a
    forwarded port the target is localhost."""
    token_file: Path | None = None
    """File with the bearer token; without one it comes from the environment (`VIGORL_AUTH__TOKEN`)."""

    @property
    def speaks_tls(self) -> bool:
        return self.tls or self.tls_ca is not None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        if self.tls_certificate is not None and not self.speaks_tls:
            raise ValueError("tls_certificate needs tls_ca or tls: TLS is off without them")
        return self


class AuthSettings(Section):
    """The bearer token that all services of one installation share, and the one for what changes a policy."""

    token: SecretStr
    admin_token: SecretStr | None = None
    """For admin listeners; the other one unless set."""


def bearer_token(*, admin: bool = False) -> str | None:
    """The token of this process's surroundings, None where there is none."""
    settings = section_from_environment(AuthSettings, "auth")
    if settings is None:
        return None
    wanted = settings.admin_token if admin and settings.admin_token is not None else settings.token
    return wanted.get_secret_value()


def read_token(path: Path) -> str:
    """The token of a file. Raises ConfigError (TOKEN_FILE_UNREADABLE)."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        problem = error.strerror or "unreadable"
    except UnicodeDecodeError:
        problem = "not ASCII text"
    else:
        if token.isprintable() and token and " " not in token:
            return token
        problem = "not one word" if token else "empty"
    raise ConfigError(
        f"token file {path}: {problem}; expected the bearer token on a line of its own",
        reason="TOKEN_FILE_UNREADABLE",
        path=path,
    )


def read_pem(path: Path) -> bytes:
    """A certificate or key. Raises ConfigError (TLS_FILE_UNREADABLE)."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; check the tls_ paths", reason="TLS_FILE_UNREADABLE", path=path
        ) from None
