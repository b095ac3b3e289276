"""Runs a program on a pseudo-terminal: types what it reads, prints what is shown."""

import os
import pty
import select
import signal
import sys

pid, terminal = pty.fork()
if pid == 0:
    # Who tests in the background of a script ignores them (POSIX); who sits at a terminal does not.
    for key in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(key, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])

sources = [terminal, 0]
while True:
    ready = select.select(sources, [], [])[0]
    if 0 in ready:
        keys = os.read(0, 4096)
        if keys:
            os.write(terminal, keys)
        else:
            sources.remove(0)
    if terminal in ready:
        try:
            os.write(1, os.read(terminal, 4096))
        except OSError:
            break  # nobody has the terminal any more

status = os.waitpid(pid, 0)[1]
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
