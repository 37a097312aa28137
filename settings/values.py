"""Checks of the values of settings, beyond their types.

Each check returns the value to use, or raises ValueError with the rule that the value breaks, as in "must be …". The
error does not repeat the value, which may be a secret.
"""

import base64
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

from network.host_rules import host_rules
from network.proxies import read_proxy

_PLACEHOLDER = re.compile(
    r"""your\w* | xxx+ | todo | tbd | fixme | none | null | nil | undefined | \w*placeholder\w*
    | [a-z]*(change|replace|insert|fill|edit|put|enter|add)(me|it|this|in|with|your|here)[a-z]*[0-9]*
    | \w*(key|token|secret|password)(goes)?here
    | (?=.*(dummy|example|sample|your))
      (admin|api|dummy|example|key|my|password|replicate|sample|secret|token|value|webhook|your)+[0-9]{0,4}""",
    re.VERBOSE,
)
"""Values that documents, examples and templates put where a secret belongs: their letters and digits, in lower case."""


UNQUOTED = "must not be in quotes"
"""The rule of all settings. Docker passes values of an env file literally, including quotes."""


def is_quoted(text: str) -> bool:
    return text.startswith(('"', "'"))


def visible(secret: SecretStr) -> SecretStr:
    if not all("!" <= character <= "~" for character in secret.get_secret_value()):
        raise ValueError("must be visible ASCII without spaces, since it travels in a header")
    return secret


def base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ValueError("must be an address that begins with http:// or https://")
    if "@" in parts.netloc or re.search(r"[\s?#\\]", url):
        raise ValueError("must have no user name, query, fragment, blank or backslash, since paths follow it")
    return url.rstrip("/")


def vault_url(url: str) -> str:
    if not url.startswith("https://"):
        raise ValueError("must be an address that begins with https://")
    return base_url(url)


def service_url(url: str) -> str:
    """As `base_url`, but with a query, and as it is at the end."""
    address, _, query = url.partition("?")
    base_url(address)
    if re.search(r"[\s#\\]", query):
        raise ValueError("must have no fragment, blank or backslash")
    return url


def origins(text: str) -> str:
    for each in filter(None, map(str.strip, text.split(","))):
        if not re.fullmatch(
            r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?", each
        ):
            raise ValueError(
                "must be origins such as https://tools.example, separated by commas, in lower case and without a path"
            )
    return text


def files_url(url: str) -> str:
    if not re.fullmatch(r"s3://[^/\s]+(/[^\s]*)?", url):
        raise ValueError("must be s3://bucket/prefix")
    return url.rstrip("/")


_POSTGRES_URL = re.compile(
    r"""postgres(ql)?://
    ([^\s:@/?\#\[\]]* (:[^\s:@/?\#\[\]]*)? @)?      # user, password
    (\[[0-9A-Fa-f:.]+\] | [^\s:@/?\#\[\],]*) (:\d+)?  # host, port
    (, (\[[0-9A-Fa-f:.]+\] | [^\s:@/?\#\[\],]*) (:\d+)?)*
    (/[^\s@/?\#]*)?                                # database
    (\?[^\s?\#]*)?""",
    re.VERBOSE,
)
"""No part of a password that is not percent-encoded may become a host or a port, since errors repeat those."""


def database_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if re.search(r"%(?![0-9A-Fa-f]{2})", text) and not text.startswith("sqlite:"):
        raise ValueError("must have %25 for a percent sign")
    if not re.fullmatch(r"sqlite:///[^?#]+", text) and not _POSTGRES_URL.fullmatch(text):
        raise ValueError(
            "must be sqlite:/// and a path, or postgresql://user:password@host/database, with special characters as %XX"
        )
    return url


def webhook_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not text.startswith("whsec_") or not key:
        raise ValueError("must be whsec_ and base64; `echo whsec_$(openssl rand -base64 24)` makes one")
    return secret


def proxy_url(url: SecretStr) -> SecretStr:
    read_proxy(url.get_secret_value())
    return url


def webhook_hosts(text: str) -> str:
    host_rules(text)
    return text


def use_certificates(environ: Mapping[str, str]) -> None:
    """Set SSL_CERT_FILE and SSL_CERT_DIR in the environment of the process, where `network.tls` and OpenSSL read them.
    Raise ValueError if the file has no certificates, or no directory exists, since all hosts would be refused.

    As in OpenSSL, SSL_CERT_DIR may name several directories, separated by colons, and some of them may be missing.
    """
    file, folders = environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR")
    try:
        if file:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except OSError as error:
        reason = "it has no certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise ValueError(f"SSL_CERT_FILE: {file} cannot be used: {reason}.") from error
    if folders and not any(Path(folder).is_dir() for folder in folders.split(os.pathsep)):
        raise ValueError(f"SSL_CERT_DIR: {folders} is not a directory.")
    used = {"SSL_CERT_FILE": file, "SSL_CERT_DIR": folders}
    os.environ.update({name: value for name, value in used.items() if value})


Secret = Annotated[SecretStr, AfterValidator(visible)]


def is_placeholder(secret: str) -> bool:
    """Whether a secret is still a placeholder."""
    plain = re.sub(r"[^a-z0-9]", "", re.sub("^(r8|whsec)_", "", secret.lower()))
    return not plain or bool(_PLACEHOLDER.fullmatch(plain) or re.search(r"<.*>|[$%{]{", secret))
