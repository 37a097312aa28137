"""The route of the audit trail: what administrators did."""

from flask import Blueprint, Response

from api import incoming, lists, roles
from generations.audit import view
from parsing.queries import parse_acts, place_cursor

routes = Blueprint("audit", __name__)


@routes.get("/audit")
def acts() -> Response:
    """The acts of administrators, the latest first, filtered by actor, action and time."""
    service = incoming.service()
    roles.require_view()
    page = parse_acts(lists.query())
    found = service.loop.run(service.core.keys.acts(page))
    return lists.page("acts", found, page.limit, view=view, cursor=lambda act: place_cursor(act.at, act.id))
