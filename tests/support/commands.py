"""The command `vantage` called in this process, and how it refuses."""

import re

from vantage.scripts.main import main


def caller(capsys):
    """A function that calls `vantage …`: (exit code, stdout, stderr)."""

    def call(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code or 0, out, err

    return call


def assert_refused(result, *parts):
    """Exit code 2, no traceback, and a last line with the rule, what came, and what to do."""
    code, _, err = result
    last = err.rstrip("\n").splitlines()[-1]
    assert code == 2, err
    assert "Traceback" not in err
    assert re.fullmatch(r"error: .{15,} Received: .+[.)] \S.{8,}", last), last
    for part in parts:
        assert part in last, last
