"""The server: gunicorn's worker, limits on connections without a request, and on slow peers."""
