"""Run a command beside an unrelated process of a certain number: NUMBER HOST COMMAND …; prints what came of both."""

import json
import os
import signal
import socket
import subprocess
import sys

number, host, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
if host:
    socket.sethostname(host)
while (child := os.fork()) != number:
    if child == 0:
        if os.getpid() == number:
            signal.pause()
        os._exit(0)
    os.waitpid(child, 0)
    if child > number:
        sys.exit(f"process number {number} was taken already")
done = subprocess.run(command, capture_output=True, text=True, check=False)
ended, _ = os.waitpid(number, os.WNOHANG)
print(json.dumps({"code": done.returncode, "output": done.stdout + done.stderr, "lives": not ended}))
