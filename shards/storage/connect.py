"""Making a provider's client from a bucket and options."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from shards.errors import UserError
from shards.storage.options import StorageOptions
from shards.storage.patience import FIRST_WAIT, LONGEST_WAIT, ONE_REQUEST


@dataclass(frozen=True)
class Bucket:
    """What a client talks to: `scheme` s3, gs, az, https or http; `name` of the bucket, container or server."""

    scheme: str
    name: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.name}"


def environment() -> int:
    """A number that changes with the variables that providers' clients look at."""
    return hash(tuple(sorted(it for it in os.environ.items() if it[0].startswith(_LOOKED_AT))))


_LOOKED_AT = ("AWS_", "GOOGLE_", "AZURE_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


def connect(bucket: Bucket, options: StorageOptions, *, retries: int) -> Any:
    given = dict(options.provider)
    seconds = options.timeout
    client_options: dict[str, Any] = {
        name: given.pop(name) == "true" for name in ("allow_http", "allow_invalid_certificates") if name in given
    }
    client_options |= {
        "timeout": f"{seconds * 1000:.0f}ms",
        "connect_timeout": f"{min(5.0, seconds * ONE_REQUEST) * 1000:.0f}ms",
        "read_timeout": f"{seconds * ONE_REQUEST * 1000:.0f}ms",
    }
    retry: dict[str, Any] = {"max_retries": retries, "retry_timeout": timedelta(seconds=seconds)}
    if retries:
        retry["backoff"] = {
            "init_backoff": timedelta(seconds=FIRST_WAIT),
            "max_backoff": timedelta(seconds=LONGEST_WAIT),
            "base": 2,
        }
    common: dict[str, Any] = {"client_options": client_options, "retry_config": retry}
    try:
        if bucket.scheme in ("http", "https"):
            client_options["allow_http"] = bucket.scheme == "http"
            return HTTPStore(bucket.url, **common)
        if bucket.scheme == "gs":
            return GCSStore(bucket.name, config=given, **common)  # type: ignore[arg-type]
        if bucket.scheme == "az":
            return AzureStore(container_name=bucket.name, config=given, **common)  # type: ignore[arg-type]
        given = _aws_defaults(given)
        if given.get("endpoint", "").startswith("http://"):
            client_options["allow_http"] = True
        return S3Store(bucket.name, config=given, **common)  # type: ignore[arg-type]
    except (BaseError, ValueError, TypeError) as error:
        words = ", ".join(sorted(options.provider)) or "none"
        raise UserError(
            f"storage options ({words}) are not understood for {bucket.url}: {str(error).splitlines()[0]}; "
            "docs/object-storage.md names them"
        ) from error


def _aws_defaults(given: Mapping[str, str]) -> dict[str, str]:
    """Options as given, and what the environment and the files of the AWS tools say besides."""
    found = dict(given)
    for name in ("endpoint_url", "aws_endpoint", "aws_endpoint_url"):
        if name in found:
            found["endpoint"] = found.pop(name)
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        if os.environ.get(variable):
            found.setdefault("endpoint", os.environ[variable])
    known = {name.removeprefix("aws_") for name in found}
    if "access_key_id" not in known and "skip_signature" not in known and "AWS_ACCESS_KEY_ID" not in os.environ:
        found |= _aws_profile()
    # Copies that must not overwrite: completed only where the target does not exist.
    return {"copy_if_not_exists": "multipart", **found}


def _aws_profile() -> dict[str, str]:
    """Keys of the profile in ~/.aws that the AWS tools would use; nothing where there is none."""
    profile = os.environ.get("AWS_PROFILE", "default")
    parser = configparser.RawConfigParser()
    name = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    try:
        parser.read(Path(name).expanduser())
    except configparser.Error as error:
        raise UserError(f"{name} cannot be understood: {error}") from error
    if not parser.has_section(profile):
        return {}
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return {it.removeprefix("aws_"): parser.get(profile, it) for it in names if parser.has_option(profile, it)}
