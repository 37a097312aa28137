"""The route of the audit trail: what administrators did."""

from flask import Blueprint, Response, jsonify, request

from api import incoming, roles
from generations.audit import view
from parsing.queries import each_once, parse_acts, place_cursor

routes = Blueprint("audit", __name__)


@routes.get("/audit")
def acts() -> Response:
    """The acts of administrators, the latest first, filtered by actor, action and time."""
    service = incoming.service()
    roles.require_view()
    query = parse_acts(each_once(request.args.to_dict(flat=False)))
    found = service.loop.run(service.core.keys.acts(query))
    shown = found[: query.limit]
    more = place_cursor(shown[-1].at, shown[-1].id) if len(found) > len(shown) else None
    return jsonify({"acts": [view(each) for each in shown], "next_cursor": more})
