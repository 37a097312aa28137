"""TLS of the requests that this service sends."""

import os
import ssl
from functools import cache

import certifi


def client_context() -> ssl.SSLContext:
    """The context that verifies servers: by the certificates in `SSL_CERT_FILE` and `SSL_CERT_DIR` if one of them is
    set, else by Mozilla's, from certifi. `SSL_CERT_DIR` may name several directories. The same paths return the same
    context, since reading certificates takes 40 ms. Raises OSError if the file has no certificates.

    `ssl.get_default_verify_paths` cannot replace this: it has no list of directories, and does not show whether a path
    is from the environment or OpenSSL's own.
    """
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    return _context(file or (None if folders else certifi.where()), folders or None)


@cache
def _context(file: str | None, folders: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=file, capath=folders)
