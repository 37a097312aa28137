"""The routes of the door for Replicate's clients beside predictions: files, models, the account, the webhook secret."""

from flask import Blueprint, Response, jsonify, request

from api import incoming, roles
from api.models import found_model
from api.request_files import caller_files
from api.responses import no_content
from doors import REPLICATE_ROOT
from doors.replicate import resources
from doors.replicate.predictions import HIDDEN
from errors import Forbidden, LedgerDown, NotFound, UnsupportedMediaType
from ledger.access_records import MAY_GENERATE
from parsing.upload_form import MOST_BYTES, read_upload

routes = Blueprint("replicate_resources", __name__, url_prefix=REPLICATE_ROOT)


@routes.post("/files")
def create_replicate_file() -> tuple[Response, int]:
    """Upload a file, which can be an input of the caller's predictions for a day."""
    service, caller = incoming.service(), incoming.require_payer()
    files, address = caller_files(), incoming.address()
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("The body must be multipart/form-data.")
    request.max_content_length = MOST_BYTES
    with incoming.limits().submitting.held(caller.turn, retry_after=service.seconds_per_release):
        options = request.mimetype_params
        with incoming.unreadable():
            uploaded = read_upload(request.stream, options=options, spool=service.uploads_dir)
        try:
            found = files.create(
                caller.id,
                uploaded.file,
                name=uploaded.name,
                content_type=uploaded.content_type,
                metadata=uploaded.metadata,
            )
        except OSError as error:
            raise LedgerDown(f"The file cannot be stored: {error.strerror or error}.") from error
        finally:
            uploaded.file.close()
    return jsonify(resources.file(found, address)), 201


@routes.get("/files")
def list_replicate_files() -> Response:
    """The latest uploads of the caller."""
    principal, address = incoming.authenticate(), incoming.address()
    found = [resources.file(each, address) for each in caller_files().latest(principal.id)]
    return jsonify({"next": None, "previous": None, "results": found})


@routes.get("/files/<target>")
def replicate_file(target: str) -> Response:
    """An upload of the caller, without its content."""
    principal, address = incoming.authenticate(), incoming.address()
    found = caller_files().find(principal.id, target)
    if found is None:
        raise NotFound("No file has this id, or it has expired.")
    return jsonify(resources.file(found, address))


@routes.delete("/files/<target>")
def delete_replicate_file(target: str) -> Response:
    """Delete an upload."""
    principal = roles.require_change()
    if not caller_files().delete(principal.id, target):
        raise NotFound("No file has this id, or it has expired.")
    return no_content()


@routes.get("/account")
def replicate_account() -> Response:
    """The caller: a named key, the admin, or the owner of a Replicate token."""
    service, principal = incoming.service(), incoming.authenticate()
    name = principal.name
    if principal.role == "user" and principal.caller is not None:
        provider = service.core.provider
        found = service.loop.run(provider.account_of(principal.caller), disconnect=incoming.connection())
        name = found or name
    return jsonify(resources.account(name, is_user=principal.role == "user"))


@routes.get("/models/<owner>/<name>")
def replicate_model(owner: str, name: str) -> Response:
    """A model, with the schema of its latest version."""
    incoming.authenticate()
    return jsonify(resources.model(found_model(f"{owner}/{name}")))


@routes.get("/models/<owner>/<name>/versions/<version>")
def replicate_version(owner: str, name: str, version: str) -> Response:
    """A version of a model, with its schema."""
    incoming.authenticate()
    model = found_model(f"{owner}/{name}" if version == HIDDEN else f"{owner}/{name}:{version}")
    return jsonify(resources.version(model, version))


@routes.get("/webhooks/default/secret")
def replicate_webhook_secret() -> Response:
    """The secret that signs the webhooks of a named key, or of the admin."""
    service, principal = incoming.service(), incoming.authenticate()
    if principal.role not in MAY_GENERATE:
        raise Forbidden("The secret of this service's webhooks is for its own keys. Ask its operator.")
    secret = service.core.outbox.secrets.shown_to(principal.id)
    if secret is None:
        raise NotFound("Webhooks of the admin key are not signed, since WEBHOOK_SECRET is not set.")
    return jsonify({"key": secret})
