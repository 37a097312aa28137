"""Who pays for a call to a text model, and what its parsing depends on.

All functions run in a Flask thread, inside a request.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from flask import g, request

from api import incoming
from auth import Caller, presents_admin_key
from parsing.context import ParseContext
from parsing.generation import names_in
from parsing.multipart_form import NO_NAMES
from parsing.texts import credential_in, form_names, without_credentials


def call_payer(in_body: str | None) -> Caller:
    """The caller who pays for a call to a text model, with the key `in_body` if there is one. Raises as
    `require_payer`."""
    running = incoming.service()
    if "Idempotency-Key" not in request.headers:
        running.raise_if_draining()
    is_open = running.settings.GEMINI_OPEN
    caller = incoming.identified(
        lambda headers: running.authenticator.call_payer(headers, in_body, is_open=is_open)
    )
    g.caller = caller.id
    return running.core.checks.known(caller) or caller


@contextmanager
def sent_call(*, forms: bool) -> Iterator[tuple[Any, Caller]]:
    """The body without its credentials, and the caller, who may be named only there. The body may be a form if `forms`
    is true, and is released from memory at the end."""
    named = call_payer(None) if incoming.has_key() else None
    names = form_names(incoming.service().context.texts) if forms else NO_NAMES
    with incoming.body(named.turn if named else incoming.peer(), forms=forms, names=names) as body:
        # Credentials beside an admin key are ignored in any form.
        key = None if presents_admin_key(request.headers) else credential_in(body)
        yield without_credentials(body), named if named is not None and key is None else call_payer(key)


def text_context(body: Any, caller: Caller) -> ParseContext:
    """What parsing this call to a text model depends on, or this batch of them. Raises ModelNotAllowed."""
    running = incoming.service()
    shared = running.context
    found = incoming.context_for(caller, replace(shared, registry=shared.texts, others=shared.registry))
    if caller.key is not None and caller.key.models:
        named = {name: model for name in names_in(body) if (model := found.find(name)) is not None}
        running.core.resolver.check_key(caller, named)
    return found
