"""`make bench-scale`: several processes of the service on one PostgreSQL before one simulator, which counts."""
