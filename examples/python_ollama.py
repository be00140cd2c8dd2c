"""Ollama's own Python client behind the gate: python_ollama.py BASE_URL [KEY]

`pip install ollama`. The client needs the gate's address as its host and, where the gate has keys, one of them as a
header; OLLAMA_HOST and OLLAMA_API_KEY in the environment do the same. Each part shows a call and checks what comes
back; the script ends with code 1 if anything is not as expected. It fits a gate with the default limits:

    cargo run --release -- --demo &
    python examples/python_ollama.py http://127.0.0.1:8000
"""

import sys

import ollama

SHORT = {"num_predict": 12}

# More than any limit that this script should meet; the default is 60 a minute.
CALLS_MAX = 200


def expect(condition, what):
    if not condition:
        sys.exit(f"not as expected: {what}")


def list_models(client):
    models = [model.model for model in client.list().models]
    print("models:", ", ".join(models))
    expect(models, "the gate lists at least one model")
    return models[0]


def ask_once(client, model):
    answer = client.generate(model=model, prompt="Why is the sky blue?", options=SHORT)
    print("generate:", answer.response)
    expect(answer.done and answer.response, "generate gives a text and is done")

    answer = client.chat(model=model, messages=[{"role": "user", "content": "Hello"}], options=SHORT)
    print("chat:", answer.message.content)
    expect(answer.message.role == "assistant" and answer.message.content, "chat gives the assistant's message")


def ask_for_a_stream(client, model):
    print("stream:", end="", flush=True)
    parts = []
    for part in client.chat(model=model, messages=[{"role": "user", "content": "Hello"}], options=SHORT, stream=True):
        parts.append(part)
        print(part.message.content, end="|", flush=True)
    print()
    expect(len(parts) > 2, "a stream comes in several parts")
    expect([part.done for part in parts] == [False] * (len(parts) - 1) + [True], "only the last part is done")

    # Leaving a stream early is fine: the gate notices and cancels the generation.
    for part in client.generate(model=model, prompt="A long story, please.", stream=True):
        print("first part of a story:", part.response)
        break


def refused(call, status):
    """Refusals arrive as the client's own exception, with the gate's text and status."""
    try:
        call()
    except ollama.ResponseError as error:
        print(f"refused with {error.status_code}: {error.error}")
        expect(error.status_code == status, f"status {status}")
        expect(error.error and not error.error.startswith("{"), "the text of the error, not its JSON")
        return
    expect(False, f"an ollama.ResponseError with status {status}")


def meet_the_limit(client, model):
    for _ in range(CALLS_MAX):
        # Without a prompt Ollama only loads the model; the request is counted all the same.
        client.generate(model=model)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python_ollama.py BASE_URL [KEY]")
    headers = {"Authorization": f"Bearer {key}" for key in sys.argv[2:]}
    client = ollama.Client(host=sys.argv[1], headers=headers, timeout=60)
    model = list_models(client)
    ask_once(client, model)
    ask_for_a_stream(client, model)
    refused(lambda: client.pull("llama3.2"), 403)
    refused(lambda: client.generate(model="no-such-model", prompt="Hello"), 404)
    refused(lambda: client.generate(model=model, prompt="Hello", options={"num_predict": "many"}), 400)
    refused(lambda: meet_the_limit(client, model), 429)
    print("All answers were as expected.")


if __name__ == "__main__":
    main()
