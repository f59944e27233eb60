"""`python -m shala_framework` is `shala`."""

from shala_framework.cli.main import main

if __name__ == "__main__":
    main()
