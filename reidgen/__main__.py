"""The command `reidgen`, also as `python -m reidgen`: a Ctrl-C while all is imported ends it in a sentence too."""

import _thread
import sys
import threading


def main() -> None:
    """Run the command line."""
    sys.unraisablehook = _unraisable
    try:
        from reidgen.cli import main as run

        run()
    except KeyboardInterrupt:
        print("error: stopped; what is finished is kept, the same command goes on", file=sys.stderr)
        sys.exit(130)


def _unraisable(found: "sys.UnraisableHookArgs") -> None:
    """Let a Ctrl-C that met Python where it drops exceptions (while an object is freed) come again, not be lost."""
    if found.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, _thread.interrupt_main).start()  # at once it would be dropped as well
    else:
        sys.__unraisablehook__(found)


if __name__ == "__main__":
    main()
