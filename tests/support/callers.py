"""Who calls in the tests, and with what."""

from media.formats import black_png

ADMIN_KEY = "the-admin-key"
SERVER_TOKEN = "r8_server"
USER_TOKEN = "r8_user"
ADMIN = {"X-Admin-API-Key": ADMIN_KEY}
USER = {"X-Replicate-API-Key": USER_TOKEN}

PNG = black_png(1, 1)
"""The smallest whole picture; more behind its end leaves it one."""

PICTURE = {"model_name": "flux-dev", "prompt": "A lighthouse at dusk"}
"""The smallest request that can be paid for."""
