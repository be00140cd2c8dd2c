"""Anthropic's Python client behind the gate: python_anthropic.py BASE_URL [KEY]

`pip install anthropic`. Three things differ from a program that asks Anthropic: base_url is the gate's address, api_key
is a key of the gate's, and the model is one that Ollama has. The client insists on some key; a gate without keys takes
any.

    cargo run --release -- --demo &
    python examples/python_anthropic.py http://127.0.0.1:8000
"""

import sys

import anthropic

MODEL = "llama3.2:1b"


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python_anthropic.py BASE_URL [KEY]")
    base, key = [*sys.argv[1:], "none"][:2]

    # A request that meets a limit or a full queue is tried again when the gate's Retry-After says, so many times.
    client = anthropic.Anthropic(base_url=base, api_key=key, max_retries=2)

    question = [{"role": "user", "content": "Why is the sky blue?"}]
    answer = client.messages.create(model=MODEL, system="Be brief.", messages=question, max_tokens=12)
    print("message:", answer.content[0].text)
    print("tokens:", answer.usage.input_tokens, "+", answer.usage.output_tokens)

    print("stream: ", end="")
    with client.messages.stream(model=MODEL, messages=question, max_tokens=12) as stream:
        for text in stream.text_stream:
            print(text, end="|", flush=True)
        print("\nended by:", stream.get_final_message().stop_reason)

    # Leaving a stream early is fine: the gate notices and cancels the generation.
    with client.messages.stream(model=MODEL, messages=question, max_tokens=1000) as stream:
        print("first part of a story:", next(iter(stream.text_stream)))

    # Refusals arrive as the exceptions that Anthropic's own do.
    try:
        client.messages.create(model="no-such-model", messages=question, max_tokens=12)
    except anthropic.NotFoundError as error:
        print("refused:", error.api_message)
    else:
        sys.exit("not as expected: an answer from a model that is not there")


if __name__ == "__main__":
    main()
