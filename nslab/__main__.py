"""`python -m nslab` is the `nslab` command."""

from nslab.cli import main

if __name__ == "__main__":
    main()
