"""Kinds of files by their content: pictures, films and texts."""
