"""The life of a generation: submitted, admitted, created, watched, its outputs kept, its result answered.

`service.py` is the face of this package. Everything in it runs on the loop.
"""
