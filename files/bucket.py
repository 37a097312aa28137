"""A storage in an S3-compatible store, so that several hosts can serve the same files without a persistent disk.

It uses obstore (an extra, `requirements-s3.txt`), which streams and reads the standard variables: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP and others. An interrupted upload leaves no object.
Its parts stay until the bucket's lifecycle rule for incomplete uploads removes them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, Final, Self, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from files.storage import OpenFile, Source, StoredFile, parse_name
from files.weights_directory import parse_weights

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_ALLOW_HTTP = "AWS_ALLOW_HTTP"

PIECE: Final = 4 * 1024 * 1024
"""Bytes that one request reads. Most pictures are one piece. A slow client cannot make a request exceed its timeout of
30 seconds."""

PART: Final = 8 * 1024 * 1024
"""Bytes of one part of an upload. S3 accepts 10,000 parts."""

_RETRIES: Final["RetryConfig"] = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
_MAX_REASON: Final = 300
_UPLOADS: Final = "uploads"
_WEIGHTS: Final = "weights"


class Bucket:
    """Stores files below `url`, such as `s3://bucket/prefix`. Missing options are read from the environment."""

    def __init__(
        self,
        url: str,
        *,
        config: "S3Config | None" = None,
        client_options: "ClientConfig | None" = None,
        retry_config: "RetryConfig" = _RETRIES,
    ) -> None:
        if not url.startswith("s3://"):
            raise ValueError("a bucket's URL must be like s3://bucket/prefix")
        self._store = S3Store.from_url(
            url,
            config=config,
            client_options=client_options,
            retry_config=retry_config,
            disable_bulk_delete=True,  # not every S3-compatible store supports it
        )

    @classmethod
    def from_variables(cls, url: str, aws: Mapping[str, str]) -> Self:
        """A bucket configured by AWS_* variables, which override the environment. An http:// endpoint is used without
        TLS. Raises ValueError."""
        config = {name: value for name, value in aws.items() if name != _ALLOW_HTTP}
        without_tls = (
            aws.get("AWS_ENDPOINT_URL", "").startswith("http://")
            or aws.get(_ALLOW_HTTP, "").lower() == "true"
        )
        options: ClientConfig | None = {"allow_http": True} if without_tls else None
        try:
            return cls(url, config=cast("S3Config", config), client_options=options)
        except BaseError as error:
            raise ValueError(str(error).partition("\n")[0]) from None

    def put(self, name: str, source: Source) -> None:
        _put(self._store, name, source, parse_name(name).media_type)

    def open(self, name: str) -> OpenFile | None:
        return _open(self._store, name, parse_name(name).media_type)

    def list(self) -> Iterator[StoredFile]:
        return _list(self._store, None, parse_name)

    def delete(self, name: str) -> bool:
        parse_name(name)
        _delete(self._store, name)
        return True  # S3 answers the same if there was none

    def uploads(self, spool: Path | None) -> "BucketUploads":
        """A storage for uploaded images below the same URL. One that is read is first fetched into `spool`."""
        return BucketUploads(self._store, spool)

    def weights(self) -> "BucketWeights":
        """A storage for weights of trainings below the same URL."""
        return BucketWeights(self._store)


class BucketUploads:
    """Stores images as `uploads/<owner>/<number>`."""

    def __init__(self, store: S3Store, spool: Path | None) -> None:
        self._store = store
        self._spool = spool

    def put(self, owner: str, number: int, file: BinaryIO) -> None:
        file.seek(0)
        with _as_os_error():
            obstore.put(self._store, f"{_UPLOADS}/{owner}/{number}", file, chunk_size=PART, max_concurrency=2)

    def open(self, owner: str, number: int) -> BinaryIO:
        file = TemporaryFile(dir=self._spool)  # noqa: SIM115 - the caller closes it
        try:
            with _as_os_error():
                for piece in obstore.get(self._store, f"{_UPLOADS}/{owner}/{number}"):
                    file.write(piece)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return cast("BinaryIO", file)

    def remove(self, owner: str) -> None:
        with _as_os_error():
            for path, _ in self._listed(f"{_UPLOADS}/{owner}"):
                _delete(self._store, path)

    def owners(self, *, before: float) -> list[str]:
        latest: dict[str, float] = {}
        with _as_os_error():
            for path, modified in self._listed(_UPLOADS):
                owner = path.split("/")[1]
                latest[owner] = max(modified, latest.get(owner, 0.0))
        return [owner for owner, modified in latest.items() if modified < before]

    def _listed(self, prefix: str) -> Iterator[tuple[str, float]]:
        for page in obstore.list(self._store, prefix, chunk_size=1000):
            for each in page:
                yield each["path"], each["last_modified"].timestamp()


class BucketWeights:
    """Stores the weights of trainings as `weights/<training>/<file>`."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    def put(self, name: str, source: Source) -> None:
        _put(self._store, f"{_WEIGHTS}/{name}", source, parse_weights(name).media_type)

    def open(self, name: str) -> OpenFile | None:
        return _open(self._store, f"{_WEIGHTS}/{name}", parse_weights(name).media_type)

    def list(self) -> Iterator[StoredFile]:
        return _list(self._store, _WEIGHTS, parse_weights)

    def delete(self, name: str) -> bool:
        parse_weights(name)
        _delete(self._store, f"{_WEIGHTS}/{name}")
        return True


def _put(store: S3Store, key: str, source: Source, media_type: str) -> None:
    file = source.file(False) if source.content is None else None
    with _as_os_error():
        obstore.put(
            store,
            key,
            file or source.content or b"",
            attributes={"Content-Type": media_type},
            chunk_size=PART,
            max_concurrency=2,
        )
    if file is not None:
        file.unlink(missing_ok=True)


def _open(store: S3Store, key: str, media_type: str) -> OpenFile | None:
    try:
        with _as_os_error():
            found = obstore.head(store, key)
    except FileNotFoundError:
        return None
    etag = found["e_tag"]

    def read(start: int, length: int) -> bytes:
        with _as_os_error():
            span = (start, start + length)
            return bytes(obstore.get(store, key, options={"range": span, "if_match": etag}).bytes())

    return OpenFile(
        size=found["size"],
        modified=found["last_modified"].timestamp(),
        media_type=media_type,
        etag=(etag or f"{found['last_modified'].timestamp():.0f}-{found['size']:x}").strip('"'),
        path=None,
        read=read,
        piece=PIECE,
        close=lambda: None,
    )


def _list(store: S3Store, prefix: str | None, parse: Callable[[str], object]) -> Iterator[StoredFile]:
    """The objects below a prefix with names that `parse` takes: it raises ValueError for others."""
    with _as_os_error():
        for page in obstore.list(store, prefix, chunk_size=1000):
            for each in page:
                name = each["path"].removeprefix(f"{prefix}/" if prefix else "")
                with suppress(ValueError):
                    parse(name)
                    yield StoredFile(name, each["size"], each["last_modified"].timestamp())


def _delete(store: S3Store, key: str) -> None:
    with suppress(FileNotFoundError), _as_os_error():
        obstore.delete(store, key)


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        raise OSError(str(error).partition("\n")[0][:_MAX_REASON]) from error
