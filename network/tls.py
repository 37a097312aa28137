"""TLS of the requests that this service sends."""

import ssl
from functools import cache

import certifi


def client_context() -> ssl.SSLContext:
    """The context that verifies servers: by the certificates in `SSL_CERT_FILE` or `SSL_CERT_DIR` if one of them is
    set, else by Mozilla's, from certifi. Every call returns the same one, since reading certificates takes 40 ms."""
    paths = ssl.get_default_verify_paths()
    file = paths.cafile if paths.cafile != paths.openssl_cafile else None
    folder = paths.capath if paths.capath != paths.openssl_capath else None
    return _context(file or (None if folder else certifi.where()), folder)


@cache
def _context(file: str | None, folder: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=file, capath=folder)
