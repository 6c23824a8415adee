"""``python -m meshctl``."""

from meshctl.cli import main

if __name__ == "__main__":
    main()
