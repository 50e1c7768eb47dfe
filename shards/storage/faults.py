"""What object storage answers when something is wrong, in words that say what to do."""

from __future__ import annotations

import re

from shards.errors import StorageError
from shards.storage.base import MissingError

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_PASSING = frozenset({408, 409, 425, 429})  # statuses below 500 that another try may overcome
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_KEY)",
}
_ENDPOINTS = {
    "s3": "AWS_ENDPOINT_URL and AWS_REGION (or --storage endpoint=URL)",
    "gs": "the network",
    "az": "AZURE_STORAGE_ACCOUNT_NAME",
}


def code_of(error: BaseException) -> str:
    """The provider's word for an error, such as NoSuchBucket; empty where the answer had none."""
    found = _CODE.search(str(error))
    return found[1] if found else ""


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an answer; None where there was no answer."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def passes(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    status = status_of(error)
    return (status is None or status >= 500 or status in _PASSING) and status != 501


def brief(error: BaseException) -> str:
    """The first line of a client's error, without the state of its internals; nothing in it is secret."""
    text = str(error).partition("\n\nDebug source")[0].partition("<?xml")[0].strip()
    message = re.search(r"<Message>(.*?)</Message>", str(error))
    text = re.sub(r"\?[^ ]*X-Amz-[^ ]*", "", text.splitlines()[0] if text else type(error).__name__)
    return f"{text.rstrip(': ')}: {message[1].rstrip('.')}" if message else text.rstrip(": ")


def explain(error: BaseException, *, scheme: str, place: str, what: str, doing: str) -> StorageError:
    """The error to raise.

    Args:
        scheme: of the URL.
        place: the bucket's or server's URL.
        what: the object's URL.
        doing: "read", "write", "list" or "remove".
    """
    code, status = code_of(error), status_of(error)
    head = f"cannot {doing} {what}"
    if code in ("NoSuchBucket", "ContainerNotFound", "InvalidBucketName"):
        return StorageError(
            f"{head}: there is no bucket {place} at this endpoint; check the name, create the bucket, or set "
            f"{_ENDPOINTS.get(scheme, 'the URL')}"
        )
    if isinstance(error, FileNotFoundError) or status == 404:
        return MissingError(f"{what} does not exist")
    if "Range request not supported" in str(error):
        return StorageError(
            f"{head}: this server does not answer range requests, so parts cannot be read; use one that does "
            "(nginx, Apache and Caddy do, Python's http.server does not), or copy the data set to a disk"
        )
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken") or status == 401:
        reason = f" ({code})" if code else ""
        return StorageError(
            f"{head}: the credentials are not accepted{reason}; set {_VARIABLES.get(scheme, 'them in the URL')}"
        )
    if status == 403 or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        right = {"read": "reading and listing", "list": "listing"}.get(doing, "writing")
        return StorageError(
            f"{head}: permission denied{f' ({code})' if code else ''}; ask for the right of {right} in {place}, or set "
            f"other credentials: {_VARIABLES.get(scheme, 'a URL that needs none')}"
        )
    return StorageError(
        f"{head}: {brief(error)}; if the network and {_ENDPOINTS.get(scheme, 'the URL')} are right, run the same "
        "command again: what is finished is kept (--storage timeout=SECONDS waits longer)"
    )
