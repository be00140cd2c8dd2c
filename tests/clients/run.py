"""Real clients, from their registries, against the gate over a simulated Ollama.

    run.py --gate PATH --backend PATH --python PATH --node-folder FOLDER [SCRIPT…]

Starts the gates, runs each client's script on its own, says what failed, with the gates' logs, and ends everything
that it started. PATHs are the programs `ollama-gate` and `ollama-sim` and a Python that has the clients; FOLDER has
those for Node.js in its node_modules. Needs nothing beyond Python's own library itself.
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

# The repository stays as it is.
sys.dont_write_bytecode = True

from gates import Site  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent

# How long one client's script may take: three of its checks wait some seconds for a limit, the rest is quick.
SCRIPT_SECONDS_MAX = 120

# What each client must have shown. A script may check more; one that silently checks less fails here.
SPEAKS = {"open_gate", "chat", "stream", "tools", "cancel", "broken_stream"}
REFUSED = {"no_key", "wrong_key", "closed_route", "unknown_model", "hidden_model", "over_limit", "full"}
ASKS_OLLAMA = {"lists", "show", "ps", "generate", "embed", "manages"}
ASKS_OPENAI = {"lists", "show", "generate", "embed", "responses"}
RETRIES = {"waits_for_its_limit", "waits_for_room"}
SCRIPTS = {
    "python_ollama.py": SPEAKS | REFUSED | ASKS_OLLAMA,
    "python_openai.py": SPEAKS | REFUSED | ASKS_OPENAI | RETRIES,
    "python_anthropic.py": SPEAKS | REFUSED | RETRIES,
    "python_langchain.py": SPEAKS | REFUSED | {"lists", "generate", "embed"},
    "node_ollama.mjs": SPEAKS | REFUSED | ASKS_OLLAMA,
    "node_openai.mjs": SPEAKS | REFUSED | ASKS_OPENAI | RETRIES,
}


def main():
    words = arguments()
    # So that an order to stop takes the way on which everything is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="ollama-gate-clients-") as folder:
        try:
            site = Site(words.gate, words.backend, folder)
        except RuntimeError as error:
            sys.exit(f"FAILED to start: {error}")
        try:
            passed, faults = run_all(words, site)
        finally:
            left = site.stop()
        faults += left
        if faults:
            for program in site.programs:
                print(f"---- the log of {program.name}:\n{program.tail()}")
            print("\n".join(f"FAILED {fault}" for fault in faults))
        print(f"{passed} passed, {len(faults)} failed")
        sys.exit(1 if faults else 0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--gate", "--backend", "--python", "--node-folder"):
        parser.add_argument(flag, required=True, type=os.path.abspath)
    parser.add_argument("scripts", metavar="SCRIPT", nargs="*", choices=[[], *SCRIPTS], help="all unless named")
    return parser.parse_args()


def run_all(words, site):
    """Runs the scripts one after the other, since they look at what the backend counts; what passed, what failed."""
    description = site.describe()
    passed, faults = 0, []
    for script in words.scripts or SCRIPTS:
        print(f"-- {script}", flush=True)
        output, ending = run(command(words, script), description)
        print(output, end="", flush=True)
        done = set(re.findall(r"^ok (\w+)", output, re.MULTILINE))
        passed += len(done)
        failed = re.findall(r"^FAILED (\w+)", output, re.MULTILINE)
        faults += [f"{script}: {name}" for name in failed]
        if ending and not failed:
            faults.append(f"{script}: {ending}")
        elif missing := sorted(SCRIPTS[script] - done - set(failed)):
            faults.append(f"{script}: not checked: {', '.join(missing)}")
        faults += [f"{script}: {leak}" for leak in site.leaks()]
    return passed, faults


def command(words, script):
    if script.endswith(".py"):
        return [words.python, str(HERE / script)]
    # Node.js looks for packages in the folders above the script, so the scripts go to where the packages are.
    for file in HERE.glob("*.mjs"):
        shutil.copy(file, words.node_folder)
    return ["node", os.path.join(words.node_folder, script)]


def run(command, description):
    """Runs one script; its output, and why it did not end well."""
    # Nothing of ours may steer a client: proxies, keys and base URLs are read from the environment by most of them.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = {**kept, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([*command, description], env=environment, **streams) as script:
        try:
            output, _ = script.communicate(timeout=SCRIPT_SECONDS_MAX)
            ending = f"code {script.returncode}" if script.returncode else None
        except subprocess.TimeoutExpired:
            script.kill()
            output, _ = script.communicate()
            ending = f"not done within {SCRIPT_SECONDS_MAX} s"
    return output.decode(errors="replace"), ending


if __name__ == "__main__":
    main()
