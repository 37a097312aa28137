"""Who calls in the tests, and with what."""

ADMIN_KEY = "the-admin-key"
SERVER_TOKEN = "r8_server"
USER_TOKEN = "r8_user"
ADMIN = {"X-Admin-API-Key": ADMIN_KEY}
USER = {"X-Replicate-API-Key": USER_TOKEN}

PICTURE = {"model_name": "flux-dev", "prompt": "A lighthouse at dusk"}
"""The smallest request that can be paid for."""
