"""How gunicorn serves: its worker, the connections that have not sent a request yet, and peers that are too slow."""
