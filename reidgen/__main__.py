"""The command `reidgen`, also as `python -m reidgen`: a Ctrl-C while all is imported ends it in a sentence too."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from reidgen.cli import main as run

        run()
    except KeyboardInterrupt:
        print("error: stopped; what is finished is kept, the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
