"""The HTTP interface: one module for each group of routes. No other package but the application knows of Flask."""

from urllib.parse import unquote, urlsplit

from flask import Blueprint, Flask

from api import admin, docs, files, generate, generations, webhooks
from api.backpressure import CallerLimits
from service import Runtime


def register(app: Flask, service: Runtime) -> None:
    """Add all routes to the application, in front of `service`.

    Each route stands below the path of `PUBLIC_URL` as well, since a proxy in front may strip that path or not.
    """
    app.extensions["service"] = service
    app.extensions["caller_limits"] = CallerLimits.from_settings(service.settings)
    app.config["PUBLIC_PATH"] = path = urlsplit(service.settings.PUBLIC_URL or "").path
    routes = Blueprint("routes", __name__)
    for module in (generate, generations, files, admin, webhooks, docs):
        routes.register_blueprint(module.routes)
    app.register_blueprint(routes)
    if path:
        app.register_blueprint(routes, url_prefix=unquote(path), name="routes_below_the_public_path")
