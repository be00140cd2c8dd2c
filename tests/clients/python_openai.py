"""OpenAI's Python client against the gate: python_openai.py SITE.json"""

import asyncio
import json

import openai

from checks import ANSWER_SECONDS_MAX, SITE, Journal, backend_rests, check, expect, leaves, raised, run

HELLO = [{"role": "user", "content": "Hello"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Tells the weather of a city.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": WEATHER}]


def client(key=SITE.keys.all, base=SITE.keyed, retries=0, journal=None):
    http = openai.DefaultHttpxClient(event_hooks=journal.hooks()) if journal else None
    return openai.OpenAI(
        base_url=f"{base}/v1", api_key=key, timeout=ANSWER_SECONDS_MAX, max_retries=retries, http_client=http
    )


def ask(own, model=SITE.model, messages=HELLO, **more):
    return own.chat.completions.create(model=model, messages=messages, **more)


def ask_endlessly(own):
    return ask(own, messages=[{"role": "user", "content": SITE.endless}], stream=True)


def refused(call, kind, says, type, code=None):
    error = raised(call, kind)
    expect(says in error.message, f"a text with {says!r}, not {error.message!r}")
    expect(error.type == type, f"the type {type}, not {error.type!r}")
    expect(error.code == code, f"the code {code}, not {error.code!r}")


@check
def lists():
    found = {model.id for model in client().models.list()}
    expect(found == {SITE.model, SITE.other, SITE.embedder}, f"all models in the list, not {found}")
    found = {model.id for model in client(SITE.keys.other).models.list()}
    expect(found == {SITE.other}, f"only what the key may use in the list, not {found}")


@check
def open_gate():
    # The client insists on a key; a gate without keys takes any.
    answer = ask(client("unused", SITE.open))
    expect(answer.choices[0].message.content, "an answer from a gate without keys")


@check
def show():
    model = client().models.retrieve(SITE.model)
    expect(model.id == SITE.model and model.object == "model", f"the model, not {model}")


@check
def generate():
    answer = client().completions.create(model=SITE.model, prompt="Why is the sky blue?")
    expect(answer.choices[0].text and answer.usage.completion_tokens > 0, "a whole completion with its counts")
    parts = list(client().completions.create(model=SITE.model, prompt="Why is the sky blue?", stream=True))
    expect(len(parts) > 2, f"several parts, not {len(parts)}")
    expect("".join(part.choices[0].text for part in parts) == answer.choices[0].text, "the same text either way")


@check
def chat():
    answer = ask(client(), max_tokens=5)
    expect(answer.choices[0].message.role == "assistant" and answer.choices[0].message.content, "the message")
    expect(answer.choices[0].finish_reason == "length", f"an end by length: {answer}")
    expect(answer.usage.completion_tokens == 5, f"5 tokens: {answer.usage}")


@check
def stream():
    parts = list(ask(client(), stream=True))
    expect(len(parts) > 2, f"several parts, not {len(parts)}")
    expect([part.usage for part in parts] == [None] * len(parts), "no usage that was not asked for")
    expect("".join(part.choices[0].delta.content or "" for part in parts), "some text")
    expect(parts[-1].choices[0].finish_reason == "stop", "a reason for the end")
    parts = list(ask(client(), stream=True, stream_options={"include_usage": True}))
    expect(parts[-1].usage.completion_tokens > 2 and not parts[-1].choices, "the usage that was asked for")


@check
def tools():
    messages = [{"role": "user", "content": SITE.tool_prompt}]
    choice = ask(client(), messages=messages, tools=TOOLS).choices[0]
    calls = choice.message.tool_calls or []
    expect([call.function.name for call in calls] == ["weather"], f"a call of the tool, not {choice}")
    expect(isinstance(json.loads(calls[0].function.arguments), dict), "arguments that are a JSON object")
    expect(choice.finish_reason == "tool_calls", f"an end for the tool: {choice}")
    messages += [choice.message, {"role": "tool", "tool_call_id": calls[0].id, "content": "sunny"}]
    choice = ask(client(), messages=messages, tools=TOOLS).choices[0]
    expect(choice.message.content and not choice.message.tool_calls, "an answer from the tool's result")


@check
def tools_in_a_stream():
    parts = ask(client(), messages=[{"role": "user", "content": SITE.tool_prompt}], tools=TOOLS, stream=True)
    deltas = [call for part in parts for choice in part.choices for call in choice.delta.tool_calls or []]
    expect([delta.function.name for delta in deltas if delta.function.name] == ["weather"], f"one call, not {deltas}")
    arguments = "".join(delta.function.arguments or "" for delta in deltas)
    expect(isinstance(json.loads(arguments), dict), "arguments that are a JSON object")


@check
def responses():
    own = client()
    answer = own.responses.create(model=SITE.model, input="Hello")
    expect(answer.status == "completed" and answer.output_text, f"a response, not {answer}")
    expect(answer.usage.output_tokens > 0, "its usage")
    events = list(own.responses.create(model=SITE.model, input="Hello", stream=True))
    expect(events[0].type == "response.created" and events[-1].type == "response.completed", "first and last event")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    expect(text == answer.output_text, "the same text either way")


@check
def embed():
    # The client asks for base64 unless told otherwise, and decodes it.
    answer = client().embeddings.create(model=SITE.embedder, input=["one", "two"])
    expect(len(answer.data) == 2 and len(answer.data[0].embedding) > 1, "a vector for each input")
    plain = client().embeddings.create(model=SITE.embedder, input=["one", "two"], encoding_format="float")
    pairs = zip(answer.data[1].embedding, plain.data[1].embedding)
    expect(all(abs(left - right) < 1e-5 for left, right in pairs), "the same vectors in either form")
    expect(answer.usage.prompt_tokens > 0, "a count of tokens")


@check
def asynchronous():
    async def talk():
        async with openai.AsyncOpenAI(base_url=f"{SITE.keyed}/v1", api_key=SITE.keys.all, max_retries=0) as own:
            several = await asyncio.gather(*(ask(own) for _ in range(4)))
            expect(all(answer.choices[0].message.content for answer in several), "four answers at once")
            parts = [part async for part in await ask(own, stream=True)]
            expect(len(parts) > 2, f"several parts, not {len(parts)}")

    asyncio.run(talk())


@check
def cancel():
    parts = ask_endlessly(client())
    leaves("/v1/chat/completions", parts, parts.close)
    parts = client().completions.create(model=SITE.model, prompt=SITE.endless, stream=True)
    leaves("/v1/completions", parts, parts.close)
    events = client().responses.create(model=SITE.model, input=SITE.endless, stream=True)
    leaves("/v1/responses", events, events.close)


@check
def broken_stream():
    own = client()
    for prompt in (SITE.cut, SITE.cut_mid_line, SITE.reset, SITE.error_line):
        for create, told in (
            (own.chat.completions.create, {"messages": [{"role": "user", "content": prompt}]}),
            (own.completions.create, {"prompt": prompt}),
            (own.responses.create, {"input": prompt}),
        ):
            parts = create(model=SITE.model, stream=True, **told)
            error = raised(lambda parts=parts: list(parts), openai.APIError)
            expect(error.message, f"a text for {prompt!r}")


@check
def no_key():
    # The client does not work without a key, but one can keep it from being sent.
    unsent = {"extra_headers": {"Authorization": openai.Omit()}}
    kind, says, type, code = openai.AuthenticationError, SITE.says.no_key, "authentication_error", "invalid_api_key"
    refused(lambda: ask(client(), **unsent), kind, says, type, code)
    refused(lambda: ask(client(), stream=True, **unsent), kind, says, type, code)


@check
def wrong_key():
    kind, says, type, code = openai.AuthenticationError, SITE.says.wrong_key, "authentication_error", "invalid_api_key"
    refused(lambda: ask(client(SITE.keys.wrong)), kind, says, type, code)
    refused(lambda: client(SITE.keys.wrong).models.list(), kind, says, type, code)


@check
def closed_route():
    reader = client(SITE.keys.reader)
    expect(reader.models.list().data, "the list for a key that may read")
    kind, says, type = openai.PermissionDeniedError, SITE.says.closed_route, "permission_error"
    refused(lambda: ask(reader), kind, says, type)
    refused(lambda: ask(reader, stream=True), kind, says, type)
    refused(lambda: reader.embeddings.create(model=SITE.embedder, input="Hello"), kind, says, type)
    refused(lambda: reader.responses.create(model=SITE.model, input="Hello"), kind, says, type)


@check
def unknown_model():
    kind, says, type = openai.NotFoundError, SITE.says.not_found.format(model="no-such-model"), "not_found_error"
    refused(lambda: ask(client(), model="no-such-model"), kind, says, type)
    refused(lambda: client().completions.create(model="no-such-model", prompt="Hello"), kind, says, type)
    refused(lambda: client().embeddings.create(model="no-such-model", input="x"), kind, "no-such-model", type)
    refused(lambda: client().models.retrieve("no-such-model"), kind, "no-such-model", type)


@check
def hidden_model():
    other = client(SITE.keys.other)
    expect(ask(other, model=SITE.other).choices[0].message.content, "an answer from the key's own model")
    kind, says, type = openai.NotFoundError, SITE.says.not_found.format(model=SITE.model), "not_found_error"
    refused(lambda: ask(other), kind, says, type)
    refused(lambda: other.models.retrieve(SITE.model), kind, SITE.model, type)


@check
def bad_request():
    refused(lambda: ask(client(), messages=[]), openai.BadRequestError, "messages", "invalid_request_error")


@check
def over_limit():
    hasty = client(SITE.keys.hasty)

    def meet_it():
        for _ in range(SITE.hasty_limit + 1):
            ask(hasty, max_tokens=1)

    kind, type = openai.RateLimitError, "rate_limit_error"
    refused(meet_it, kind, SITE.says.over_limit, type, "rate_limit_exceeded")


@check
def full():
    backend_rests()
    holder = ask_endlessly(client("unused", SITE.busy))
    next(holder)
    own = client("unused", SITE.busy)
    refused(lambda: ask(own), openai.InternalServerError, SITE.says.full, "api_error")
    expect(raised(lambda: ask(own), openai.InternalServerError).status_code == 503, "status 503")
    leaves("/v1/chat/completions", holder, holder.close)


@check
def waits_for_its_limit():
    journal = Journal()
    patient = client(SITE.keys.patient, retries=2, journal=journal)
    for _ in range(2):
        ask(patient, max_tokens=1)
    journal.shows_patience(429)


@check
def waits_for_room():
    backend_rests()
    holder = ask_endlessly(client("unused", SITE.busy))
    next(holder)
    journal = Journal()
    journal.on_refusal = holder.close
    ask(client("unused", SITE.busy, retries=2, journal=journal), max_tokens=1)
    journal.shows_patience(503)


run()
