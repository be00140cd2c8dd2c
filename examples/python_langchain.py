"""LangChain behind the gate: python_langchain.py BASE_URL [KEY]

`pip install langchain-ollama`. ChatOllama needs the gate's address as base_url and, where the gate has keys, one of
them as a header for its client. A URL does as well: http://anybody:KEY@gate:8000.

    cargo run --release -- --demo &
    python examples/python_langchain.py http://127.0.0.1:8000
"""

import sys

import langchain_core.prompts
import langchain_ollama
import ollama

MODEL = "llama3.2:1b"


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python_langchain.py BASE_URL [KEY]")
    base, *key = sys.argv[1:]
    access = {"base_url": base, "client_kwargs": {"headers": {"Authorization": f"Bearer {own}" for own in key}}}

    # validate_model_on_init asks the gate for the models that this key may use.
    model = langchain_ollama.ChatOllama(model=MODEL, num_predict=12, validate_model_on_init=True, **access)

    answer = model.invoke("Why is the sky blue?")
    print("chat:", answer.content)
    print("tokens:", answer.usage_metadata["input_tokens"], "+", answer.usage_metadata["output_tokens"])

    chain = langchain_core.prompts.ChatPromptTemplate.from_template("Tell me of {subject}.") | model
    print("stream of a chain:", "|".join(part.content for part in chain.stream({"subject": "gates"})))

    # Refusals arrive as the exception of Ollama's own client. LangChain does not try again unless it is told to; a 429
    # or a 503 is worth it.
    try:
        langchain_ollama.ChatOllama(model="no-such-model", **access).invoke("Hello")
    except ollama.ResponseError as error:
        print(f"refused with {error.status_code}: {error.error}")
    else:
        sys.exit("not as expected: an answer from a model that is not there")


if __name__ == "__main__":
    main()
