"""`shala` and its verbs: the only place that prints or exits."""
