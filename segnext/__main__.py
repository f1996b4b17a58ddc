"""The `segnext` script, and `python -m segnext`."""

import signal

# Ctrl-C ends the process at once and without a traceback, also while modules are imported. Commands whose work can be
# kept (`train`, `predict`) handle it themselves. A shell that starts a background job ignores it: then it stays so.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Run the command line of this process and exit."""
    from segnext.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
