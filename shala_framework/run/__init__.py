"""A run of a spec: its data, its phases, and what it leaves in its folder."""
