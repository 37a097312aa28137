"""The HTTP interface: one module for each group of routes. Apart from `app.py`, only this package imports Flask."""

from urllib.parse import unquote, urlsplit

from flask import Blueprint, Flask

from api import (
    admin,
    audit,
    chat_door,
    client_wheels,
    docs,
    files,
    generate,
    generations,
    keys,
    metrics,
    models,
    openai_door,
    replicate_door,
    replicate_resources,
    replicate_trainings,
    semaphores,
    texts,
    trainings,
    webhooks,
)
from api.backpressure import CallerLimits
from service import Runtime


def register(app: Flask, service: Runtime) -> None:
    """Add all routes of `service` to the application.

    Each route also exists below the path of `PUBLIC_URL`, since a proxy may or may not strip that path.
    """
    app.extensions["service"] = service
    app.extensions["caller_limits"] = CallerLimits.from_settings(service.settings)
    origins = map(str.strip, service.settings.CORS_ORIGINS.split(","))
    app.config["CORS_ORIGINS"] = frozenset(filter(None, origins))
    app.config["CLIENT_DIST"] = client_wheels.DIST
    app.config["PUBLIC_PATH"] = path = urlsplit(service.settings.PUBLIC_URL or "").path
    routes = Blueprint("routes", __name__)
    for module in (
        generate,
        generations,
        files,
        admin,
        keys,
        audit,
        metrics,
        semaphores,
        webhooks,
        models,
        docs,
        client_wheels,
        openai_door,
        chat_door,
        replicate_door,
        replicate_resources,
        replicate_trainings,
        texts,
        trainings,
    ):
        routes.register_blueprint(module.routes)
    app.register_blueprint(routes)
    if path:
        app.register_blueprint(routes, url_prefix=unquote(path), name="routes_below_the_public_path")
