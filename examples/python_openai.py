"""OpenAI's Python client behind the gate: python_openai.py BASE_URL [KEY]

`pip install openai`. Two things differ from a program that asks OpenAI: base_url is the gate's address with /v1 behind
it, and api_key is a key of the gate's. The client insists on some key; a gate without keys takes any.

    cargo run --release -- --demo &
    python examples/python_openai.py http://127.0.0.1:8000
"""

import sys

import openai


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python_openai.py BASE_URL [KEY]")
    base, key = [*sys.argv[1:], "none"][:2]

    # A request that meets a limit or a full queue is tried again when the gate's Retry-After says, so many times.
    client = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=2)

    models = [model.id for model in client.models.list()]
    print("models:", ", ".join(models))

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}]
    answer = client.chat.completions.create(model=models[0], messages=messages, max_tokens=12)
    print("chat:", answer.choices[0].message.content)
    print("tokens:", answer.usage.prompt_tokens, "+", answer.usage.completion_tokens)

    print("stream: ", end="")
    for part in client.chat.completions.create(model=models[0], messages=messages, max_tokens=12, stream=True):
        print(part.choices[0].delta.content or "", end="|", flush=True)
    print()

    response = client.responses.create(model=models[0], input="Why is the sky blue?", max_output_tokens=12)
    print("response:", response.output_text)

    # Leaving a stream early is fine: the gate notices and cancels the generation.
    with client.completions.create(model=models[0], prompt="A long story, please.", stream=True) as story:
        print("first part of a story:", next(story).choices[0].text)

    # Refusals arrive as the exceptions that OpenAI's own do.
    try:
        client.chat.completions.create(model="no-such-model", messages=messages)
    except openai.NotFoundError as error:
        print("refused:", error.message)
    else:
        sys.exit("not as expected: an answer from a model that is not there")


if __name__ == "__main__":
    main()
