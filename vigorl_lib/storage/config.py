"""Where an S3 endpoint is and who we are to it.

Credentials never stand in a recipe: they come from the environment (`VIGORL_S3__ENDPOINT`,
`VIGORL_S3__ACCESS_KEY`, `VIGORL_S3__SECRET_KEY`, `VIGORL_S3__SECURE`, `VIGORL_S3__REGION`), through
the one loader, and a secret key does not print.
"""

from __future__ import annotations

from pydantic import Field, SecretStr

from vigorl_lib.config import Section


class S3Settings(Section):
    """Connection to one S3 endpoint."""

    endpoint: str = Field(min_length=1, pattern=r"^[^/\s]+$")
    """`host` or `host:port`, without a scheme."""
    access_key: str = ""
    """Empty for anonymous access."""
    secret_key: SecretStr = SecretStr("")
    secure: bool = True
    """TLS; off for a plain-HTTP endpoint."""
    region: str = "us-east-1"
    connect_timeout_s: float = Field(default=5.0, gt=0)
    read_timeout_s: float = Field(default=60.0, gt=0)
