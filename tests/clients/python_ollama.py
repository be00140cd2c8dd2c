"""Ollama's own Python client against the gate: python_ollama.py SITE.json"""

import asyncio
import json

import ollama

from checks import ANSWER_SECONDS_MAX, SITE, backend_rests, check, expect, leaves, raised, run

HELLO = [{"role": "user", "content": "Hello"}]


def client(key=SITE.keys.all, base=SITE.keyed):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return ollama.Client(host=base, headers=headers, timeout=ANSWER_SECONDS_MAX)


def weather(city: str) -> str:
    """Tells the weather of a city.

    Args:
      city: The name of the city.
    """
    return f"sunny in {city}"


def refused(call, status, says):
    error = raised(call, ollama.ResponseError)
    expect(error.status_code == status, f"status {status}, not {error.status_code}: {error.error}")
    expect(says in error.error, f"a text with {says!r}, not {error.error!r}")
    expect(not error.error.startswith("{"), f"the text of the error, not its JSON: {error.error}")


def is_a_stream(parts, text):
    expect(len(parts) > 2, f"several parts, not {len(parts)}")
    expect([part.done for part in parts] == [False] * (len(parts) - 1) + [True], "only the last part is done")
    expect(parts[-1].eval_count and parts[-1].prompt_eval_count, "counts in the last part")
    expect(text, "some text")


@check
def lists():
    found = {model.model for model in client().list().models}
    expect(found == {SITE.model, SITE.other, SITE.embedder}, f"all models in the list, not {found}")
    found = {model.model for model in client(SITE.keys.other).list().models}
    expect(found == {SITE.other}, f"only what the key may use in the list, not {found}")


@check
def open_gate():
    found = {model.model for model in client(None, SITE.open).list().models}
    expect(SITE.model in found, "a list without a key from a gate without keys")
    answer = client(None, SITE.open).chat(model=SITE.model, messages=HELLO)
    expect(answer.message.content, "an answer without a key from a gate without keys")


@check
def show():
    about = client().show(SITE.model)
    expect("completion" in about.capabilities, f"capabilities, not {about.capabilities}")
    expect(about.details.family, "details with a family")


@check
def ps():
    client().generate(model=SITE.model)
    found = [model.model for model in client().ps().models]
    expect(SITE.model in found, f"the model among those in memory, not {found}")


@check
def generate():
    answer = client().generate(model=SITE.model, prompt="Why is the sky blue?")
    expect(answer.done and answer.response and answer.eval_count > 0, "a whole answer with its counts")
    parts = list(client().generate(model=SITE.model, prompt="Why is the sky blue?", stream=True))
    is_a_stream(parts, "".join(part.response for part in parts))
    expect("".join(part.response for part in parts) == answer.response, "the same text either way")


@check
def generate_json():
    answer = client().generate(model=SITE.model, prompt="As JSON, please.", format="json")
    expect(isinstance(json.loads(answer.response), dict), "an answer that is JSON")


@check
def chat():
    answer = client().chat(model=SITE.model, messages=HELLO, options={"num_predict": 5})
    expect(answer.message.role == "assistant" and answer.message.content, "the assistant's message")
    expect(answer.done_reason == "length" and answer.eval_count == 5, f"an end after 5 tokens: {answer}")


@check
def stream():
    parts = list(client().chat(model=SITE.model, messages=HELLO, stream=True))
    is_a_stream(parts, "".join(part.message.content or "" for part in parts))


@check
def tools():
    messages = [{"role": "user", "content": SITE.tool_prompt}]
    answer = client().chat(model=SITE.model, messages=messages, tools=[weather])
    calls = answer.message.tool_calls or []
    expect([call.function.name for call in calls] == ["weather"], f"a call of the tool, not {answer.message}")
    expect("city" in calls[0].function.arguments, f"its arguments, not {calls[0].function.arguments}")
    messages += [answer.message, {"role": "tool", "tool_name": "weather", "content": weather("Oslo")}]
    answer = client().chat(model=SITE.model, messages=messages, tools=[weather])
    expect(answer.message.content and not answer.message.tool_calls, "an answer from the tool's result")


@check
def tools_in_a_stream():
    messages = [{"role": "user", "content": SITE.tool_prompt}]
    parts = list(client().chat(model=SITE.model, messages=messages, tools=[weather], stream=True))
    calls = [call.function.name for part in parts for call in part.message.tool_calls or []]
    expect(calls == ["weather"] and parts[-1].done, f"one call of the tool, not {calls}")


@check
def embed():
    answer = client().embed(model=SITE.embedder, input=["one", "two"])
    expect(len(answer.embeddings) == 2, "a vector for each input")
    lengths = {len(vector) for vector in answer.embeddings}
    expect(len(lengths) == 1 and lengths.pop() > 1, "vectors of one length")
    expect(answer.prompt_eval_count > 0, "a count of tokens")
    expect(len(client().embeddings(model=SITE.embedder, prompt="one").embedding) > 1, "a vector by the older route")


@check
def asynchronous():
    async def talk():
        headers = {"authorization": f"Bearer {SITE.keys.all}"}
        own = ollama.AsyncClient(host=SITE.keyed, headers=headers, timeout=ANSWER_SECONDS_MAX)
        several = await asyncio.gather(*(own.chat(model=SITE.model, messages=HELLO) for _ in range(4)))
        expect(all(answer.message.content for answer in several), "four answers at once")
        parts = [part async for part in await own.generate(model=SITE.model, prompt="Hello", stream=True)]
        is_a_stream(parts, "".join(part.response for part in parts))

    asyncio.run(talk())


@check
def cancel():
    chat_stream = client().chat(model=SITE.model, messages=[{"role": "user", "content": SITE.endless}], stream=True)
    leaves("/api/chat", chat_stream, chat_stream.close)
    generation = client().generate(model=SITE.model, prompt=SITE.endless, stream=True)
    leaves("/api/generate", generation, generation.close)


@check
def broken_stream():
    for prompt in (SITE.cut, SITE.cut_mid_line, SITE.reset, SITE.error_line):
        parts = client().generate(model=SITE.model, prompt=prompt, stream=True)
        error = raised(lambda parts=parts: list(parts), ollama.ResponseError)
        expect(error.error, f"a text for {prompt!r}")


@check
def no_key():
    refused(lambda: client(None).list(), 401, SITE.says.no_key)
    refused(lambda: client(None).chat(model=SITE.model, messages=HELLO), 401, SITE.says.no_key)
    refused(lambda: list(client(None).chat(model=SITE.model, messages=HELLO, stream=True)), 401, SITE.says.no_key)


@check
def wrong_key():
    refused(lambda: client(SITE.keys.wrong).generate(model=SITE.model, prompt="Hello"), 401, SITE.says.wrong_key)


@check
def closed_route():
    reader = client(SITE.keys.reader)
    expect(reader.list().models, "the list for a key that may read")
    refused(lambda: reader.generate(model=SITE.model, prompt="Hello"), 403, SITE.says.closed_route)
    refused(lambda: reader.embed(model=SITE.embedder, input="Hello"), 403, SITE.says.closed_route)
    refused(lambda: client().pull("tinyllama"), 403, SITE.says.closed_route)
    refused(lambda: client(None, SITE.open).pull("tinyllama"), 403, SITE.says.closed_gate)


@check
def manages():
    keeper = client(SITE.keys.keeper)
    statuses = [part.status for part in keeper.pull("tinyllama", stream=True)]
    expect(statuses[-1] == "success", f"a pull that ends well, not {statuses}")
    expect(keeper.copy("tinyllama", "tinyllama:mine").status == "success", "a copy")
    expect(keeper.delete("tinyllama:mine").status == "success", "the copy deleted")
    expect(keeper.delete("tinyllama").status == "success", "the model deleted")
    refused(lambda: keeper.delete("tinyllama"), 404, "tinyllama")


@check
def unknown_model():
    says = SITE.says.not_found.format(model="no-such-model")
    refused(lambda: client().generate(model="no-such-model", prompt="Hello"), 404, says)
    refused(lambda: list(client().chat(model="no-such-model", messages=HELLO, stream=True)), 404, says)
    refused(lambda: client().embed(model="no-such-model", input="Hello"), 404, "no-such-model")
    refused(lambda: client().show("no-such-model"), 404, "no-such-model")


@check
def hidden_model():
    other = client(SITE.keys.other)
    expect(other.chat(model=SITE.other, messages=HELLO).message.content, "an answer from the key's own model")
    says = SITE.says.not_found.format(model=SITE.model)
    refused(lambda: other.chat(model=SITE.model, messages=HELLO), 404, says)
    refused(lambda: other.show(SITE.model), 404, SITE.model)


@check
def bad_request():
    options = {"num_predict": "many"}
    refused(lambda: client().generate(model=SITE.model, prompt="Hello", options=options), 400, "num_predict")


@check
def over_limit():
    hasty = client(SITE.keys.hasty)

    def meet_it():
        for _ in range(SITE.hasty_limit + 1):
            hasty.generate(model=SITE.model, prompt="Hello", options={"num_predict": 1})

    refused(meet_it, 429, SITE.says.over_limit)


@check
def full():
    backend_rests()
    holder = client(None, SITE.busy).generate(model=SITE.model, prompt=SITE.endless, stream=True)
    next(holder)
    refused(lambda: client(None, SITE.busy).generate(model=SITE.model, prompt="Hello"), 503, SITE.says.full)
    leaves("/api/generate", holder, holder.close)


run()
