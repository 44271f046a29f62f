"""Whether a grammar compiles, found out in a process of its own: a hostile one may take for ever, and a thread cannot be stopped.

``python -m tutelage.generate.vetting`` reads grammars, one JSON string per line, and answers each with what is wrong with it.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from threading import Lock

import llguidance

CPU_SECONDS = 0.75
"""Processor time that a grammar may take. Of schemas, 1,000 properties take 0.6 s, 10,000 values of an enum 0.15 s; an ``allOf`` of
four ``multipleOf`` was not done after three minutes."""
_MEMORY = 2 * 2**30
SLOW = f"it does not compile within {CPU_SECONDS} seconds and {_MEMORY >> 30} GiB: make it simpler"


def _limits() -> llguidance.LLParserLimits:
    """What one step may cost: about 7 ms for the lexer and 1 ms for the parser, because all answers wait for it."""
    return llguidance.LLParserLimits(step_lexer_fuel=100_000, step_max_items=20_000, verbose_errors=False)


def begun(tokenizer: llguidance.LLTokenizer, grammar: str) -> tuple[llguidance.LLMatcher, str]:
    """A grammar's matcher, which has computed what the first step of every answer needs, and what is wrong with it in a line."""
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=_limits())
    matcher.compute_bitmask()
    return matcher, _told(matcher.get_error()) if matcher.is_error() else ""


_TOLD = {
    "NoExtensionBias": "nothing can ever satisfy it: does it refer to itself without end?",
    "oneOf constraints are not supported": "oneOf is possible only if its alternatives are seen to exclude each other: use anyOf",
    "lookarounds not supported yet": "a pattern has \\b or \\B, which is not possible",
    "recursion limit exceeded": "it is nested too deeply",
    "fuel exhausted": "it is too complex: make it simpler",
}
"""Beginning of what llguidance says where that is not for people -> what to say instead."""


def _told(problem: str) -> str:
    """What is wrong in a line, without the place in the grammar and the grammar's lines around it."""
    problem = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?|\n +\d+ \| .*", "", problem, flags=re.DOTALL)
    if unknown := re.fullmatch(r"Unimplemented keys: \[(.*)\]", problem):
        return f"{unknown[1]} {'are' if ', ' in unknown[1] else 'is'} not supported"
    problem = re.sub(r"^regex parse error:.*\nerror: ", "in a pattern: ", problem, flags=re.DOTALL)
    problem = " ".join(problem.split())[:300]
    return next((told for begin, told in _TOLD.items() if problem.startswith(begin)), problem)


class Vetter:
    """The other process, started when it is needed and again after it was stopped. Usable from any thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    def problem(self, grammar: str) -> str:
        """What ``begun`` says is wrong; empty if nothing is. Blocks until the other process answers, or is stopped as too slow."""
        with self._lock:
            for _ in range(2):  # it may have been stopped by somebody else since the last grammar
                fresh = self._process is None or self._process.poll() is not None
                if fresh:
                    self.close()
                    words = [sys.executable, "-m", "tutelage.generate.vetting"]
                    self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                if (answer := self._ask(grammar)) is not None:
                    return answer
                if fresh:
                    break
            return SLOW

    def _ask(self, grammar: str) -> str | None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(grammar).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            self._process.wait()
            return None
        return str(json.loads(line))

    def close(self) -> None:
        """End the other process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def main() -> None:
    import resource  # which Windows does not have; the module is imported with the server

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    tokenizer = llguidance.LLTokenizer("byte")
    for line in sys.stdin.buffer:
        grammar = re.sub(r"<\[\d+\]>", "<[0]>", json.loads(line))  # ids of a vocabulary that is not here
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process
        _, found = begun(tokenizer, grammar)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
