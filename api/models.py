"""The routes that show models: the declared ones, text models, and any other that Replicate has.

A look at Replicate needs a key, since it takes a place in the window of the account. Without one, the declared models
are shown, and the public ones that were looked up before.
"""

from typing import Any

from flask import Blueprint, Response, jsonify, request

from api import incoming
from auth import Caller, Principal
from catalog.model import Model
from errors import NotFound, Unauthenticated
from parsing.queries import parse_filter, parse_search

routes = Blueprint("models", __name__)


@routes.get("/models")
def list_models() -> Response:
    """The declared models and the text models, filtered by kind and tier if requested; with `search`, also others that
    fit its words."""
    service, query = incoming.service(), request.args.to_dict(flat=False)
    fits, search = parse_filter(query), parse_search(query)
    known = (*service.context.registry.models, *service.context.texts.models)
    models = [model for model in known if fits(model)]
    if search is None:
        return jsonify({"models": [model.as_json() for model in models]})
    words = search.lower().split()
    fitting = [model for model in models if all(any(word in name for name in model.names) for word in words)]
    others = service.loop.run(service.core.pages.search(search, _payer()), disconnect=incoming.connection())
    return jsonify({"models": [model.as_json() for model in fitting], "others": others})


@routes.get("/models/<path:name>")
def get_model(name: str) -> Response:
    """One model: `owner/name`, `owner/name:version`, `deployments/owner/name`, or an alias."""
    service = incoming.service()
    model = service.context.texts.find(name) or found_model(name)
    if not model.is_published:
        return jsonify(model.as_json())
    page = service.core.pages.page(model, _payer())
    return jsonify(service.loop.run(page, disconnect=incoming.connection()))


def found_model(name: str) -> Model:
    """The model of this name, declared or found at Replicate with the key of this request. Raises NotFound."""
    service = incoming.service()
    found: Any = service.context.registry.find(name)
    if found is None:
        found = service.loop.run(
            service.core.pages.describe(name, _payer()), disconnect=incoming.connection()
        )
    if found is None:
        why = (
            "Models of Replicate are owner/name."
            if incoming.has_key()
            else "A look at Replicate needs a key."
        )
        raise NotFound(f"No model of this name is known here. {why}")
    if isinstance(found, str):
        raise NotFound(f"{name[:200]} {found}.")
    model: Model = found
    return model


def _payer() -> Caller | None:
    """The caller whose token may look at Replicate, None without a key and for one of the role `viewer`. Raises
    Unauthenticated for a wrong one."""
    if not incoming.has_key():
        return None
    sender: Principal = incoming.authenticate()
    if not sender.may_change:
        return None  # it may spend no place in the window of the account
    if sender.caller is None:
        raise Unauthenticated("The service has no REPLICATE_API_TOKEN, so it cannot look at Replicate.")
    checks = incoming.service().core.checks
    return checks.known(sender.caller) or incoming.service().loop.run(
        checks.check(sender.caller), disconnect=incoming.connection()
    )
