"""Keys, headers and requests of the callers in tests."""

from media.formats import black_png

ADMIN_KEY = "the-admin-key"
SERVER_TOKEN = "r8_server"
USER_TOKEN = "r8_user"
ADMIN = {"X-Admin-API-Key": ADMIN_KEY}
USER = {"X-Replicate-API-Key": USER_TOKEN}

PNG = black_png(1, 1)
"""The smallest complete image. It stays valid with more bytes after its end."""

PICTURE = {"model_name": "flux-dev", "prompt": "A lighthouse at dusk"}
"""The smallest valid request for a generation."""
