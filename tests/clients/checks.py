"""What the scripts for Python clients share: where everything is, how a check is told, what a refusal must look like.

A script marks its checks with @check and ends with run(). Each check prints one line; one that fails does not keep the
others from running. The site (gates, keys, models, the words of refusals) comes as a JSON file that run.py writes.
"""

import json
import sys
import time
import traceback
import urllib.request
from types import SimpleNamespace

# How long something that follows from a client's deed may take to be seen: it takes milliseconds, machines may stall.
SEEN_SECONDS_MAX = 10

# How long a client waits for one answer. Nothing here takes a second but what waits for a limit on purpose.
ANSWER_SECONDS_MAX = 30

# How much of an answer is shown that should have been a refusal.
ANSWER_SHOWN_MAX = 200

# Two clocks are compared: ours and the client's own timer, which may be rounded.
CLOCK_SECONDS = 0.02


def _read_site():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} SITE.json (run.py writes it)")
    with open(sys.argv[1], encoding="utf-8") as file:
        return json.load(file, object_hook=lambda fields: SimpleNamespace(**fields))


SITE = _read_site()
_checks = []


def check(function):
    """Marks a function as a check; its name is the subject."""
    _checks.append(function)
    return function


def expect(condition, what):
    if not condition:
        raise AssertionError(f"expected: {what}")


def run():
    """Runs all checks in their order and ends with code 1 if one fails."""
    failed = 0
    for function in _checks:
        began = time.monotonic()
        try:
            function()
        except Exception as error:  # whatever a client may raise
            failed += 1
            print(f"FAILED {function.__name__}: {type(error).__name__}: {error}", flush=True)
            for frame in traceback.extract_tb(error.__traceback__):
                if frame.filename == sys.argv[0]:
                    print(f"    {frame.filename}:{frame.lineno}: {frame.line}", flush=True)
        else:
            print(f"ok {function.__name__} ({time.monotonic() - began:.2f} s)", flush=True)
    sys.exit(1 if failed else 0)


def raised(call, kind):
    """The exception that the call must end with: of this kind, not of one derived from it or above it."""
    try:
        result = call()
    except kind as error:
        expect(type(error) is kind, f"{kind.__name__}, not {type(error).__name__}: {error}")
        return error
    raise AssertionError(f"expected: {kind.__name__}, not an answer: {repr(result)[:ANSWER_SHOWN_MAX]}")


def seen(what, condition):
    """Waits until the condition holds."""
    deadline = time.monotonic() + SEEN_SECONDS_MAX
    while not condition():
        expect(time.monotonic() < deadline, f"{what} within {SEEN_SECONDS_MAX} s")
        time.sleep(0.01)  # bounded poll


def counters():
    """What the simulated Ollama behind the gates has seen."""
    with urllib.request.urlopen(f"{SITE.backend}/sim/counters", timeout=ANSWER_SECONDS_MAX) as answer:
        return json.load(answer)


def backend_rests():
    """Waits until nothing generates: no slot is held by a request that has just been given up."""
    seen("an idle backend", lambda: counters()["generating"] == 0)


def leaves(route, stream, leave):
    """Takes a part of an endless stream, leaves it, and waits until the backend has been told."""
    before = counters()["cancelled"]
    for number, _part in enumerate(stream):
        if number == 2:
            break
    else:
        raise AssertionError("expected: a stream without end")
    leave()
    seen("the backend's notice that the client has left", lambda: counters()["cancelled"] > before)
    last = counters()["cancellations"][-1]
    expect(last["route"] == f"POST {route}", f"a cancelled POST {route}, not {last}")
    backend_rests()


class Journal:
    """What a client asked and was answered, for clients on httpx: pass `hooks()` as its event hooks."""

    def __init__(self):
        self.entries = []
        self.on_refusal = lambda: None

    def hooks(self):
        return {"request": [self._asked], "response": [self._answered]}

    def _asked(self, _request):
        self.entries.append(SimpleNamespace(asked=time.monotonic(), answered=None, status=None, retry_after=None))

    def _answered(self, response):
        entry = self.entries[-1]
        entry.answered = time.monotonic()
        entry.status = response.status_code
        entry.retry_after = response.headers.get("retry-after")
        if entry.status in (429, 503):
            self.on_refusal()

    def shows_patience(self, status):
        """Insists that some request was refused so, and that each next try came when Retry-After said, not before."""
        statuses = [entry.status for entry in self.entries]
        is_right = status in statuses and statuses[-1] == 200
        expect(is_right, f"a refusal with {status} and success at last, not {statuses}")
        for refused, again in zip(self.entries, self.entries[1:]):
            if refused.status != 200:
                expect(refused.status == status, f"no other refusal than {status}: {statuses}")
                expect(refused.retry_after is not None, f"a {status} with Retry-After")
                pause = again.asked - refused.answered
                wanted = int(refused.retry_after)
                expect(pause >= wanted - CLOCK_SECONDS, f"a pause of {wanted} s, not {pause:.2f} s")
