"""`python cli.py VERB …` in a checkout: the command `moleflow`, without an installation."""

from moleflow_pl.cli.main import main

if __name__ == "__main__":
    main()
