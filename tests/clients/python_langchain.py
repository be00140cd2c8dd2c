"""LangChain's Ollama package against the gate: python_langchain.py SITE.json"""

import asyncio

import langchain_core.messages
import langchain_core.tools
import langchain_ollama
import ollama
import pydantic

from checks import ANSWER_SECONDS_MAX, SITE, backend_rests, check, expect, leaves, raised, run


def terms(key, base, **more):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": base, "client_kwargs": {"headers": headers, "timeout": ANSWER_SECONDS_MAX}, **more}


def chat_model(key=SITE.keys.all, base=SITE.keyed, model=SITE.model, **more):
    return langchain_ollama.ChatOllama(model=model, **terms(key, base, **more))


def refused(call, status, says):
    error = raised(call, ollama.ResponseError)
    expect(error.status_code == status, f"status {status}, not {error.status_code}: {error.error}")
    expect(says in error.error, f"a text with {says!r}, not {error.error!r}")


@langchain_core.tools.tool
def weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"sunny in {city}"


@check
def lists():
    # It looks whether the list has the model.
    chat_model(validate_model_on_init=True)
    error = raised(lambda: chat_model(SITE.keys.other, validate_model_on_init=True), pydantic.ValidationError)
    expect(f"Available local models: {SITE.other}" in str(error), f"only what the key may use: {error}")
    raised(lambda: chat_model(None, validate_model_on_init=True), pydantic.ValidationError)


@check
def open_gate():
    expect(chat_model(None, SITE.open).invoke("Hello").content, "an answer from a gate without keys")


@check
def chat():
    answer = chat_model(num_predict=5).invoke("Hello")
    expect(answer.content and answer.usage_metadata["output_tokens"] == 5, f"an end after 5 tokens: {answer}")
    expect(answer.response_metadata["done_reason"] == "length", f"an end by length: {answer.response_metadata}")


@check
def key_in_the_url():
    # A user and a password in the URL are sent as Basic.
    base = SITE.keyed.replace("http://", f"http://anybody:{SITE.keys.all}@")
    expect(langchain_ollama.ChatOllama(model=SITE.model, base_url=base).invoke("Hello").content, "an answer")


@check
def generate():
    own = langchain_ollama.OllamaLLM(model=SITE.model, **terms(SITE.keys.all, SITE.keyed))
    text = own.invoke("Why is the sky blue?")
    expect(text and "".join(own.stream("Why is the sky blue?")) == text, "the same text either way")


@check
def stream():
    parts = list(chat_model().stream("Hello"))
    expect(len(parts) > 2 and "".join(part.content for part in parts), f"several parts, not {len(parts)}")


@check
def tools():
    own = chat_model().bind_tools([weather])
    asked = langchain_core.messages.HumanMessage(SITE.tool_prompt)
    answer = own.invoke([asked])
    expect([call["name"] for call in answer.tool_calls] == ["weather"], f"a call of the tool, not {answer}")
    call = answer.tool_calls[0]
    result = langchain_core.messages.ToolMessage("sunny", tool_call_id=call["id"])
    answer = own.invoke([asked, answer, result])
    expect(answer.content and not answer.tool_calls, "an answer from the tool's result")


@check
def embed():
    own = langchain_ollama.OllamaEmbeddings(model=SITE.embedder, **terms(SITE.keys.all, SITE.keyed))
    vectors = own.embed_documents(["one", "two"])
    expect(len(vectors) == 2 and len(vectors[0]) == len(own.embed_query("one")) > 1, "a vector for each text")


@check
def asynchronous():
    async def talk():
        own = chat_model()
        several = await asyncio.gather(*(own.ainvoke("Hello") for _ in range(4)))
        expect(all(answer.content for answer in several), "four answers at once")

    asyncio.run(talk())


@check
def cancel():
    parts = chat_model().stream(SITE.endless)
    leaves("/api/chat", parts, parts.close)


@check
def broken_stream():
    for prompt in (SITE.cut, SITE.cut_mid_line, SITE.reset, SITE.error_line):
        error = raised(lambda prompt=prompt: list(chat_model().stream(prompt)), ollama.ResponseError)
        expect(error.error, f"a text for {prompt!r}")


@check
def no_key():
    refused(lambda: chat_model(None).invoke("Hello"), 401, SITE.says.no_key)


@check
def wrong_key():
    refused(lambda: chat_model(SITE.keys.wrong).invoke("Hello"), 401, SITE.says.wrong_key)


@check
def closed_route():
    refused(lambda: chat_model(SITE.keys.reader).invoke("Hello"), 403, SITE.says.closed_route)


@check
def unknown_model():
    says = SITE.says.not_found.format(model="no-such-model")
    refused(lambda: chat_model(model="no-such-model").invoke("Hello"), 404, says)


@check
def hidden_model():
    other = SITE.keys.other
    expect(chat_model(other, model=SITE.other).invoke("Hello").content, "an answer from the key's own model")
    refused(lambda: chat_model(other).invoke("Hello"), 404, SITE.says.not_found.format(model=SITE.model))


@check
def over_limit():
    hasty = chat_model(SITE.keys.hasty, num_predict=1)
    refused(lambda: [hasty.invoke("Hello") for _ in range(SITE.hasty_limit + 1)], 429, SITE.says.over_limit)


@check
def full():
    backend_rests()
    holder = chat_model(None, SITE.busy).stream(SITE.endless)
    next(holder)
    refused(lambda: chat_model(None, SITE.busy).invoke("Hello"), 503, SITE.says.full)
    leaves("/api/chat", holder, holder.close)


run()
