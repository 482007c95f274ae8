"""``python -m tactful``."""

from tactful.cli.main import main

if __name__ == "__main__":
    main(prog_name="tactful")
