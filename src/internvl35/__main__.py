"""``python -m internvl35`` is the command ``internvl35``."""

from internvl35.cli import main

if __name__ == "__main__":
    main()
