"""Anthropic's Python client against the gate: python_anthropic.py SITE.json"""

import asyncio

import anthropic

from checks import ANSWER_SECONDS_MAX, SITE, Journal, backend_rests, check, expect, leaves, raised, run

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"name": "weather", "description": "Tells the weather of a city.", "input_schema": SCHEMA}]
TOKENS = 200


def client(key=SITE.keys.all, base=SITE.keyed, retries=0, journal=None):
    http = anthropic.DefaultHttpxClient(event_hooks=journal.hooks()) if journal else None
    return anthropic.Anthropic(
        base_url=base, api_key=key, timeout=ANSWER_SECONDS_MAX, max_retries=retries, http_client=http
    )


def ask(own, model=SITE.model, messages=HELLO, max_tokens=TOKENS, **more):
    return own.messages.create(model=model, messages=messages, max_tokens=max_tokens, **more)


def ask_endlessly(own):
    return ask(own, messages=[{"role": "user", "content": SITE.endless}], stream=True)


def refused(call, kind, status, says, type):
    error = raised(call, kind)
    expect(error.status_code == status, f"status {status}, not {error.status_code}")
    expect(error.type == type, f"the type {type}, not {error.type!r}")
    expect(says in error.body["error"]["message"], f"a text with {says!r}, not {error.body!r}")


@check
def open_gate():
    # The client insists on a key; a gate without keys takes any.
    expect(ask(client("unused", SITE.open)).content[0].text, "an answer from a gate without keys")


@check
def chat():
    answer = ask(client(), max_tokens=5, system="Be brief.")
    expect(answer.role == "assistant" and answer.content[0].text, "the message")
    expect(answer.stop_reason == "max_tokens", f"an end by length: {answer}")
    expect(answer.usage.output_tokens == 5 and answer.usage.input_tokens > 0, f"counts: {answer.usage}")


@check
def bearer():
    # auth_token goes out as Authorization: Bearer instead of x-api-key.
    own = anthropic.Anthropic(base_url=SITE.keyed, auth_token=SITE.keys.all, max_retries=0)
    expect(ask(own).content[0].text, "an answer to a key sent as Bearer")


@check
def stream():
    events = list(ask(client(), stream=True))
    kinds = [event.type for event in events]
    expect(kinds[0] == "message_start" and kinds[-1] == "message_stop", f"first and last event: {kinds}")
    expect(kinds.count("content_block_delta") > 2, f"several parts: {kinds}")
    expect(events[-2].type == "message_delta" and events[-2].usage.output_tokens > 2, "the counts before the end")
    with client().messages.stream(model=SITE.model, messages=HELLO, max_tokens=TOKENS) as parts:
        text = "".join(parts.text_stream)
        expect(text and parts.get_final_message().stop_reason == "end_turn", "the whole text, and its end")
    expect(text == ask(client()).content[0].text, "the same text either way")


@check
def tools():
    messages = [{"role": "user", "content": SITE.tool_prompt}]
    answer = ask(client(), messages=messages, tools=TOOLS)
    calls = [block for block in answer.content if block.type == "tool_use"]
    expect([call.name for call in calls] == ["weather"], f"a call of the tool, not {answer}")
    expect(isinstance(calls[0].input, dict) and answer.stop_reason == "tool_use", f"its input, the reason: {answer}")
    result = {"type": "tool_result", "tool_use_id": calls[0].id, "content": "sunny"}
    messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    answer = ask(client(), messages=messages, tools=TOOLS)
    expect([block.type for block in answer.content] == ["text"], f"an answer from the tool's result, not {answer}")


@check
def tools_in_a_stream():
    messages = [{"role": "user", "content": SITE.tool_prompt}]
    with client().messages.stream(model=SITE.model, messages=messages, max_tokens=TOKENS, tools=TOOLS) as parts:
        answer = parts.get_final_message()
    calls = [block for block in answer.content if block.type == "tool_use"]
    expect([call.name for call in calls] == ["weather"], f"a call of the tool, not {answer}")
    expect(isinstance(calls[0].input, dict), "its input")


@check
def asynchronous():
    async def talk():
        async with anthropic.AsyncAnthropic(base_url=SITE.keyed, api_key=SITE.keys.all, max_retries=0) as own:
            several = await asyncio.gather(*(ask(own) for _ in range(4)))
            expect(all(answer.content[0].text for answer in several), "four answers at once")
            events = [event async for event in await ask(own, stream=True)]
            expect(events[-1].type == "message_stop", "a stream to its end")

    asyncio.run(talk())


@check
def cancel():
    events = ask_endlessly(client())
    leaves("/v1/messages", events, events.close)


@check
def broken_stream():
    for prompt in (SITE.cut, SITE.cut_mid_line, SITE.reset, SITE.error_line):
        events = ask(client(), messages=[{"role": "user", "content": prompt}], stream=True)
        # Its status was 200 when the stream began, so the client has no closer kind.
        error = raised(lambda events=events: list(events), anthropic.APIStatusError)
        expect(error.body["error"]["message"] and error.body["type"] == "error", f"a text for {prompt!r}")


@check
def no_key():
    # The client does not work without a key, but one can keep it from being sent.
    omitted = {"X-Api-Key": anthropic.Omit(), "Authorization": anthropic.Omit()}
    own = anthropic.Anthropic(base_url=SITE.keyed, api_key="unused", max_retries=0, default_headers=omitted)
    refused(lambda: ask(own), anthropic.AuthenticationError, 401, SITE.says.no_key, "authentication_error")


@check
def wrong_key():
    own, kind = client(SITE.keys.wrong), anthropic.AuthenticationError
    refused(lambda: ask(own), kind, 401, SITE.says.wrong_key, "authentication_error")
    refused(lambda: ask(own, stream=True), kind, 401, SITE.says.wrong_key, "authentication_error")


@check
def closed_route():
    kind, says = anthropic.PermissionDeniedError, SITE.says.closed_route
    refused(lambda: ask(client(SITE.keys.reader)), kind, 403, says, "permission_error")


@check
def unknown_model():
    kind, says = anthropic.NotFoundError, SITE.says.not_found.format(model="no-such-model")
    refused(lambda: ask(client(), model="no-such-model"), kind, 404, says, "not_found_error")
    refused(lambda: ask(client(), model="no-such-model", stream=True), kind, 404, says, "not_found_error")


@check
def hidden_model():
    other = client(SITE.keys.other)
    expect(ask(other, model=SITE.other).content[0].text, "an answer from the key's own model")
    kind, says = anthropic.NotFoundError, SITE.says.not_found.format(model=SITE.model)
    refused(lambda: ask(other), kind, 404, says, "not_found_error")


@check
def bad_request():
    refused(lambda: ask(client(), messages=[]), anthropic.BadRequestError, 400, "messages", "invalid_request_error")


@check
def over_limit():
    hasty = client(SITE.keys.hasty)

    def meet_it():
        for _ in range(SITE.hasty_limit + 1):
            ask(hasty, max_tokens=1)

    refused(meet_it, anthropic.RateLimitError, 429, SITE.says.over_limit, "rate_limit_error")


@check
def full():
    backend_rests()
    holder = ask_endlessly(client("unused", SITE.busy))
    next(holder)
    own = client("unused", SITE.busy)
    refused(lambda: ask(own), anthropic.ServiceUnavailableError, 503, SITE.says.full, "overloaded_error")
    leaves("/v1/messages", holder, holder.close)


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
