"""``python -m sympgp`` is the command ``sympgp``."""

from sympgp.cli import main

if __name__ == "__main__":
    main()
