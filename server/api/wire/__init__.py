"""Wire formats: what clients may send, as strict pydantic models, and what they get back, as typed dictionaries."""
