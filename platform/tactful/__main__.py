"""``python -m tactful``."""

from tactful.cli import main

if __name__ == "__main__":
    main(prog_name="tactful")
