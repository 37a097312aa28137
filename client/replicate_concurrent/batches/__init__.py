"""Batches that cannot be lost: rows of a file in, named files out, and a manifest by which the same call resumes."""
