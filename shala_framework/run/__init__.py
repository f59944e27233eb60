"""A run of a spec: its data, its phases, and the content of its folder."""
