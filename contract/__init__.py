"""Terms of the HTTP contract that every layer uses. Imports nothing of this project."""
