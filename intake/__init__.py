"""What callers ask for: from the bytes of a body to requests that may be paid for.

`strict_json.py` and `forms.py` read the two kinds of body there are, `parsing.py` makes requests of them or says all
that is wrong (`validation.py`, in words), and `shapes.py` is what a body may hold and what comes out.
"""
