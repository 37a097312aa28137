"""The route for Replicate's webhooks."""

import structlog
from flask import Blueprint, Response, request

from api import incoming
from api.responses import no_content
from errors import Unauthenticated
from providers.pushes import Untrusted

log = structlog.get_logger("http")

routes = Blueprint("webhooks", __name__)


@routes.post("/webhooks/replicate")
def pushed_by_replicate() -> Response:
    """Receive the end of a prediction. A webhook about an unknown generation is ignored without reading its body."""
    service = incoming.service()
    push, generation_id = service.core.push, request.args.get("generation", "")
    attempt = request.args.get("attempt", "")
    if (elsewhere := service.loop.run(push.elsewhere(generation_id))) is not None:
        with incoming.bytes_of_body("replicate") as content:
            service.loop.run(push.pass_on(elsewhere, attempt, dict(request.headers), content))
        return no_content()
    expected = service.loop.run(push.expect(generation_id))
    if expected is not None:
        try:
            with incoming.bytes_of_body("replicate") as content:
                pushed = push.read(expected, dict(request.headers), content)
        except Untrusted as reason:
            log.warning("webhook_refused", generation=generation_id, reason=str(reason))
            raise Unauthenticated("The signature is not valid.") from None
        service.loop.run(push.receive(expected, attempt, pushed))
    return no_content()
