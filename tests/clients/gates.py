"""The programs that the clients' scripts talk to: gates in each needed configuration over one simulated Ollama.

Nothing here checks a client. Whatever was started is ended by stop(), by its own process id, and its log is kept until
then. Invariant: nothing listens on a fixed port, and nothing is written outside the folder that was given.
"""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

# How long a program may take to listen and a gate to be ready: seconds where a machine is busy.
READY_SECONDS_MAX = 30

# How long a gate may take to leave when it is told to; its own graceful timeout is 30 s.
LEAVE_SECONDS_MAX = 45

MODEL = "llama3.2:1b"
OTHER = "smollm:135m"
EMBEDDER = "nomic-embed-text:latest"

# Fast, but with a packet for each token, so that a stream can be left in its middle.
TOKENS_A_SECOND = 200

# Requests that the hasty key may make in a minute. The scripts share the key: each needs to be refused only once.
HASTY_LIMIT = 2

# What each key may do, as `key new` takes it. The one for patience refuses for long enough to tell its Retry-After
# from the pauses that clients make of their own accord, half a second.
KEYS = {
    "all": ["--routes", "infer,read"],
    "reader": ["--routes", "read"],
    "keeper": ["--routes", "infer,read,manage"],
    "other": ["--models", OTHER],
    "hasty": ["--limit", f"{HASTY_LIMIT}/minute"],
    "patient": ["--limit", "1/3seconds"],
}

# The same shape as a key of the gate's, which was never made.
WRONG_KEY = "og-000000000000-" + "0" * 40

# What a refusal must say; the status and the type of the exception are the scripts' business.
SAYS = {
    "no_key": "an API key is needed",
    "wrong_key": "this API key is not known here",
    "closed_route": "this API key may not use this route",
    "closed_gate": "this route is not open on this gate",
    "not_found": "model '{model}' not found",
    "over_limit": f"Rate limit exceeded: {HASTY_LIMIT} per 1 minute",
    "full": "server busy, please try again: the queue is full",
}

# Prompts by which the simulated Ollama misbehaves, or calls a tool.
PROMPTS = {
    "endless": "@sim:endless",
    "cut": "@sim:cut:3",
    "cut_mid_line": "@sim:cut-mid-line:3",
    "reset": "@sim:reset:chunks:3",
    "error_line": "@sim:error:3",
    "tool_prompt": "Please use the tool.",
}

# Headers in which a client tells who it is; none may reach a backend.
CREDENTIALS = {"authorization", "x-api-key", "cookie"}


class Program:
    """A started program whose log says where it listens."""

    def __init__(self, name, command, folder):
        self.name = name
        self.log = os.path.join(folder, f"{name}.log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)

    def url(self, pattern):
        """Waits for the line that says where it listens."""
        return _awaited(self, lambda: (match := re.search(pattern, self.text())) and match[1])

    def text(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def tail(self):
        return "".join(f"    {line}\n" for line in self.text().splitlines()[-50:])

    def stop(self, way):
        """Ends it; the code it left with."""
        if self.process.poll() is None:
            self.process.send_signal(way)
        try:
            return self.process.wait(LEAVE_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Site:
    """The simulated Ollama and the gates over it."""

    def __init__(self, gate, backend, folder):
        self.folder = folder
        self.programs = []
        self.gates = []
        self.keys = {}
        try:
            self._start(gate, backend)
        except BaseException:
            self.stop()
            raise

    def _start(self, gate, backend):
        models = ",".join([MODEL, OTHER, EMBEDDER])
        command = [backend, "--models", models, "--token-rate", str(TOKENS_A_SECOND)]
        sim = Program("backend", command, self.folder)
        self.programs.append(sim)
        self.backend = sim.url(r"ollama-sim on (http://\S+)")
        keys = os.path.join(self.folder, "keys")
        self.keys = {name: _key(gate, keys, name, terms) for name, terms in KEYS.items()}
        self.open = self._gate(gate, "open")
        self.keyed = self._gate(gate, "keyed", "--keys", keys)
        self.busy = self._gate(gate, "busy", "--slots", "1", "--queue", "0")

    def _gate(self, gate, name, *flags):
        command = [gate, "--bind", "127.0.0.1:0", "--workers", "2", "--upstream", self.backend]
        started = Program(name, [*command, "--limit", "none", "--api-limit", "none", *flags], self.folder)
        self.programs.append(started)
        self.gates.append(started)
        url = started.url(r"listening on (http://\S+?)[,\s]")
        _awaited(started, lambda: _answers(f"{url}/readyz"))
        return url

    def describe(self):
        """Writes all that a script needs to know to a file that only we can read; its path."""
        path = os.path.join(self.folder, "site.json")
        places = {"open": self.open, "keyed": self.keyed, "busy": self.busy, "backend": self.backend}
        models = {"model": MODEL, "other": OTHER, "embedder": EMBEDDER}
        keys = {**self.keys, "wrong": WRONG_KEY}
        told = {**places, **models, **PROMPTS, "keys": keys, "says": SAYS, "hasty_limit": HASTY_LIMIT}
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(told, file)
        return path

    def leaks(self):
        """Whatever was seen where no credentials may be: at the backend, or in a log."""
        with urllib.request.urlopen(f"{self.backend}/sim/counters", timeout=READY_SECONDS_MAX) as answer:
            requests = json.load(answer)["last_requests"]
        found = set()
        for request in requests:
            names = {name.lower() for name, _value in request["headers"]}
            found.update(f"the backend was sent {name}" for name in names & CREDENTIALS)
        secrets = [secret.split("-")[-1] for secret in [*self.keys.values(), WRONG_KEY]]
        for program in self.programs:
            if any(secret in program.text() for secret in secrets):
                found.add(f"the log of {program.name} has a secret")
        return sorted(found)

    def stop(self):
        """Ends everything; what did not leave as it should."""
        faults = []
        for program in reversed(self.programs):
            # The gates have work to finish, the simulation has none.
            way = signal.SIGTERM if program in self.gates else signal.SIGKILL
            code = program.stop(way)
            if program in self.gates and code != 0:
                faults.append(f"{program.name} left with code {code}")
        return faults


def _key(gate, keys, name, terms):
    command = [gate, "key", "new", "--keys", keys, "--name", name, *terms]
    made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=READY_SECONDS_MAX)
    if made.returncode != 0 or not made.stdout.strip():
        raise RuntimeError(f"{' '.join(command)}: code {made.returncode}\n{made.stderr}")
    return made.stdout.strip()


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def _awaited(program, look):
    deadline = time.monotonic() + READY_SECONDS_MAX
    while not (found := look()):
        if program.process.poll() is not None:
            raise RuntimeError(f"{program.name} has ended with code {program.process.returncode}\n{program.tail()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{program.name} is not ready\n{program.tail()}")
        time.sleep(0.02)  # bounded poll
    return found
