"""Storage in a bucket of any S3 endpoint, through the MinIO client.

`create` is a conditional PUT. The client's `put_object` has no conditional argument, and a header that
is given to it as metadata would be stored as metadata, so the request is a presigned PUT with
`If-None-Match: *` sent by hand. An endpoint may accept that header and ignore it: the first `create` of
a process proves on a throw-away key that it does not.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import IO, cast
from uuid import uuid4

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError
from urllib3.util import Retry, Timeout

from vigorl_lib.config import section_from_environment
from vigorl_lib.errors import ConfigError, ObjectNotFound, StorageError
from vigorl_lib.storage.base import Checksum, check_key, checksum_stream, files_below
from vigorl_lib.storage.config import S3Settings

_POOL_CONNECTIONS = 32
_RETRIES = 4
_BACKOFF_S = 0.2
_RETRIED_STATUS = (429, 500, 502, 503, 504)
_PRESIGNED_FOR = timedelta(minutes=15)

_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"}
_MISSING = {"NoSuchKey", "NoSuchObject", "ResourceNotFound"}


def settings_from_environment(environment: Mapping[str, str] | None = None) -> S3Settings:
    """Settings from `VIGORL_S3__…`. Raises ConfigError (S3_SETTINGS_MISSING) where there is no endpoint."""
    settings = section_from_environment(S3Settings, "s3", environment)
    if settings is None:
        raise ConfigError(
            "an s3:// address needs VIGORL_S3__ENDPOINT (host:port), VIGORL_S3__ACCESS_KEY and VIGORL_S3__SECRET_KEY "
            "in the environment, and VIGORL_S3__SECURE=false for plain HTTP",
            reason="S3_SETTINGS_MISSING",
        )
    return settings


class S3Storage:
    """Objects of `bucket` whose names begin with `prefix/`. Safe to share among threads."""

    def __init__(self, bucket: str, prefix: str, settings: S3Settings) -> None:
        self._bucket, self._prefix, self._settings = bucket, prefix, settings
        self._pool = urllib3.PoolManager(
            maxsize=_POOL_CONNECTIONS,
            timeout=Timeout(connect=settings.connect_timeout_s, read=settings.read_timeout_s),
            retries=Retry(
                total=_RETRIES,
                backoff_factor=_BACKOFF_S,
                status_forcelist=_RETRIED_STATUS,
                raise_on_status=False,
            ),
        )
        self._client = Minio(
            settings.endpoint,
            access_key=settings.access_key or None,
            secret_key=settings.secret_key.get_secret_value() or None,
            secure=settings.secure,
            region=settings.region,
            http_client=self._pool,
        )
        self._probe_lock, self._conditional = Lock(), False

    def __repr__(self) -> str:
        return f"S3Storage({self.uri!r})"

    @property
    def uri(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def check(self) -> None:
        with self._errors(self._prefix):
            if not self._client.bucket_exists(self._bucket):
                raise self._no_bucket()
        self._probe()

    def read(self, key: str) -> bytes:
        with self._errors(key), self._opened(key) as response:
            return response.read()

    def write(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self._client.put_object(self._bucket, self._name(key), io.BytesIO(data), len(data))

    def create(self, key: str, data: bytes) -> bool:
        self._probe()
        return self._conditional_put(key, data)

    def exists(self, key: str) -> bool:
        try:
            with self._errors(key):
                self._client.stat_object(self._bucket, self._name(key))
        except ObjectNotFound:
            return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        lead = f"{self._prefix}/" if self._prefix else ""
        with self._errors(prefix):
            found = self._client.list_objects(self._bucket, prefix=lead + prefix, recursive=True)
            return sorted(str(item.object_name).removeprefix(lead) for item in found if not item.is_dir)

    def delete(self, key: str) -> None:
        with self._errors(key):
            self._client.remove_object(self._bucket, self._name(key))

    def checksum(self, key: str) -> Checksum:
        with self._errors(key), self._opened(key) as response:
            return checksum_stream(response)

    def local_path(self, key: str) -> None:
        return None

    def upload_folder(self, folder: Path, prefix: str) -> None:
        for name, source in files_below(folder):
            with self._errors(f"{prefix}/{name}"):
                self._client.fput_object(self._bucket, self._name(f"{prefix}/{name}"), str(source))

    def download(self, key: str, path: Path) -> None:
        with self._errors(key):
            self._client.fget_object(self._bucket, self._name(key), str(path))

    def download_folder(self, prefix: str, folder: Path) -> None:
        keys = self.list(f"{prefix}/")
        if not keys:
            raise ObjectNotFound(f"nothing under {prefix}/ in {self.uri}", reason="OBJECT_NOT_FOUND", key=prefix)
        for key in keys:
            target = folder / key.removeprefix(f"{prefix}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            self.download(key, target)

    def _name(self, key: str) -> str:
        return f"{self._prefix}/{check_key(key)}" if self._prefix else check_key(key)

    @contextmanager
    def _opened(self, key: str) -> Iterator[IO[bytes]]:
        response = self._client.get_object(self._bucket, self._name(key))
        try:
            yield cast(IO[bytes], response)
        finally:
            response.close()
            response.release_conn()

    def _conditional_put(self, key: str, data: bytes) -> bool:
        with self._errors(key):
            url = self._client.presigned_put_object(self._bucket, self._name(key), expires=_PRESIGNED_FOR)
            # Only a connection that was never made is tried again: after a lost answer, a second try would
            # find this writer's own object there and report a defeat.
            retries = Retry(connect=_RETRIES, read=False, status=False, other=False, backoff_factor=_BACKOFF_S)
            # Without its digest some servers take what a writer that died after the headers left behind, nothing at
            # all, for the whole object.
            digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
            headers = {"If-None-Match": "*", "Content-MD5": digest}
            response = self._pool.urlopen("PUT", url, body=data, headers=headers, retries=retries)
            # 409: another conditional write to the key is under way; it may yet fail, but this one has not won.
            if response.status in (409, 412) and b"NoSuchBucket" not in response.data:
                return False
            if response.status in (200, 201, 204):
                return True
            if response.status == 501:
                raise self._unsupported()
            raise self._failed(response.status, response.data, key)

    def _probe(self) -> None:
        """Prove once that a second conditional write to a key is refused."""
        with self._probe_lock:
            if self._conditional:
                return
            key = f"{uuid4().hex}.probe"
            won = [self._conditional_put(key, b"probe"), self._conditional_put(key, b"again")]
            self.delete(key)
            if won != [True, False]:
                raise self._unsupported()
            self._conditional = True

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            raise self._translated(str(error.code), str(error.message), key) from error
        except (ServerError, InvalidResponseError) as error:
            status = error.status_code if isinstance(error, ServerError) else error._code
            raise self._failed(status, str(error).encode(), key) from error
        except (MinioException, HTTPError, OSError) as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"{self.uri}: the S3 endpoint {self._settings.endpoint} cannot be reached ({type(error).__name__}); "
                "check VIGORL_S3__ENDPOINT and VIGORL_S3__SECURE, and that it is up",
                reason="STORAGE_UNAVAILABLE",
                key=key,
                endpoint=self._settings.endpoint,
            ) from error

    def _failed(self, status: int, body: bytes, key: str) -> StorageError:
        """The error of an answer that the client did not read for us."""
        for code in (*_DENIED, *_MISSING, "NoSuchBucket"):
            if code.encode() in body:
                return self._translated(code, "", key)
        if status == 403:
            return self._translated("AccessDenied", "", key)
        return StorageError(
            f"{self.uri}: {key}: the S3 endpoint answered with status {status}",
            reason="STORAGE_UNAVAILABLE",
            infrastructure=status >= 500 or status == 429,
            key=key,
            status=status,
        )

    def _translated(self, code: str, message: str, key: str) -> StorageError:
        if code in _MISSING:
            return ObjectNotFound(f"no object {key} in {self.uri}", reason="OBJECT_NOT_FOUND", key=key)
        if code == "NoSuchBucket":
            return self._no_bucket()
        if code in _DENIED:
            return StorageError(
                f"{self.uri}: the S3 endpoint {self._settings.endpoint} refused the credentials ({code}); "
                "check VIGORL_S3__ACCESS_KEY and VIGORL_S3__SECRET_KEY and what they may do in this bucket",
                reason="STORAGE_ACCESS_DENIED",
                infrastructure=False,
                key=key,
                code=code,
            )
        return StorageError(
            f"{self.uri}: {key}: {code}: {message}",
            reason="STORAGE_UNAVAILABLE",
            infrastructure=code in {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout"},
            key=key,
            code=code,
        )

    def _no_bucket(self) -> StorageError:
        return StorageError(
            f"there is no bucket {self._bucket!r} at {self._settings.endpoint}; create it or change the s3:// address",
            reason="BUCKET_MISSING",
            infrastructure=False,
            bucket=self._bucket,
        )

    def _unsupported(self) -> StorageError:
        return StorageError(
            f"the S3 endpoint {self._settings.endpoint} does not honour 'If-None-Match: *', so two writers could both "
            "win; use one with conditional writes (MinIO, AWS S3, SeaweedFS)",
            reason="CONDITIONAL_WRITE_UNSUPPORTED",
            infrastructure=False,
            endpoint=self._settings.endpoint,
        )
