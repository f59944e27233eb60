"""`shala` and its verbs. Only this package prints and exits."""
