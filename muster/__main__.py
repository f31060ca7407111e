"""`python -m muster` is the same as `muster`."""

from muster.cli import main

if __name__ == "__main__":
    main()
