"""The service of this user on this machine."""

from replicate_concurrent.config import Settings
from replicate_concurrent.errors import NoServer


def find_or_start(settings: Settings) -> tuple[str, str]:  # noqa: ARG001 - until services are started
    """The URL and the admin key of the running service, or of a new one. Raises NoServer."""
    raise NoServer(
        "There is no address of a service. One of these gives one:\n"
        "  - set RCG_URL, or pass url=…, to a service that runs\n"
        "  - pip install 'replicate-concurrent[serve]', which starts one on this machine when it is needed\n"
        "  - in a clone of the service: make run, and RCG_URL=http://localhost:5000"
    )
