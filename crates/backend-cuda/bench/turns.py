"""Programs that stay loaded and take turns: each line of input asks for a stretch of steps, a line of JSON answers."""

import json
import subprocess
import sys
import tempfile


class Program:
    def __init__(self, name, command, environment=None):
        self.name, self.log = name, tempfile.TemporaryFile("w+")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self.log, text=True, env=environment
        )

    def ask(self):
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: `answer` says so

    def answer(self):
        """The next line of JSON; frameworks may print others. None if the program ended."""
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self.log.seek(0)
        print(f"{self.name}: ended early\n{self.log.read()[-1500:]}", file=sys.stderr)
        return None

    def close(self):
        self.process.communicate()


def opened(programs):
    """Those that say that they are ready. Of a generator, each starts when the one before it is."""
    return [program for program in programs if program.answer()]
