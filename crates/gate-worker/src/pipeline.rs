//! The life of a request, from its head to its last byte. Each stage takes what the stage before it made, so that none
//! can be left out; a refusal anywhere leaves by one door.

use std::borrow::Cow;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use gate_api::article::ArticleRequest;
use gate_api::call::{self, Call};
use gate_api::rejection::{LimitHeaders, Phase};
use gate_api::{Dialect, Fault, Rejection, Route, route};
use gate_limit::{Client, Refused, Scope, Standing};
use gate_upstream::{Gather, OverCap, within};
use gate_zone::clock;
use gate_zone::layout::row;
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HOST, HeaderName, HeaderValue, ORIGIN};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use tokio::time::{Instant, sleep_until};

use crate::bill::{self, Cause, Unaffordable};
use crate::cors;
use crate::exchange;
use crate::gate::Gate;
use crate::holder::Holder;
use crate::inbound::Inbound;
use crate::ledger::Ledger;
use crate::lists;
use crate::manage::{self, Upload};
use crate::outbound::{Answering, Outbound};
use crate::pages;
use crate::trace::Trace;
use crate::wire::{Line, REFUSED};

/// The longest body that is read only to be dropped: it comes with its head or right behind it.
const PASSING_MAX: u64 = 4096;

/// How long it is waited for. Clients that write head and body in two steps need less.
const PASSING_FOR: Duration = Duration::from_millis(50);

/// A refusal with the dialect it is told in, and where the client stands if a limit refused.
struct Refusal {
    dialect: Dialect,
    rejection: Rejection,
    standing: Option<Standing>,
}

impl Refusal {
    fn new(dialect: Dialect, rejection: Rejection) -> Self {
        Self { dialect, rejection, standing: None }
    }
}

/// Where a request comes from, and how that is written in the log and to the backend.
pub(crate) struct Origin {
    pub(crate) client: Client,
    pub(crate) text: HeaderValue,
    /// The names that its request is followed by.
    pub(crate) trace: Trace,
}

/// Who asks.
pub(crate) struct Caller {
    pub(crate) origin: Origin,
    pub(crate) holder: Holder,
}

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Serves one request. What it returns is what hyper wants: a wrapper that made it so would hold this future twice, and move
/// it once more.
pub(crate) async fn handle(
    gate: Rc<Gate>,
    line: Rc<Line>,
    request: Request<Inbound>,
) -> Result<Response<Outbound>, Infallible> {
    let (head, body) = request.into_parts();
    // Whoever reads it takes it.
    let mut body = Some(body);
    let mut ledger = Ledger::open(&gate, &line, &head);
    let dialect = || screen(&line, &head).map_or_else(|refusal| refusal.dialect, |route| route.dialect());
    let opened = ledger.opened();
    // Pinned where it stands: handed on by value it would be stored anew in every wrapper.
    let answered = {
        let answering = pin!(answer(&gate, &line, (&head, &mut body), &mut ledger));
        in_time((&gate, &line, opened), answering).await
    };
    let mut response = match answered {
        Ok(Ok(answering)) => answering.send(&gate, ledger),
        Ok(Err(refusal)) => refuse(&gate, &line, &head, refusal, ledger),
        Err(rejection) => {
            let refusal = Refusal::new(dialect(), rejection);
            refuse(&gate, &line, &head, refusal, ledger)
        }
    };
    if head.headers.contains_key(ORIGIN) {
        cors::tell(&gate, &head, dialect(), response.headers_mut());
    }
    if let Some(body) = body
        && passing(&head, body).await == Passing::Left
    {
        // hyper closes the connection behind a body that nobody has read, and the answer has to say so.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// What became of a body that the answer did not need.
#[derive(PartialEq, Eq)]
enum Passing {
    /// It was read and dropped.
    Gone,
    /// Some of it is still to come.
    Left,
}

/// Reads and drops a short body that is here or nearly so, so that a refusal does not cost the client its connection.
async fn passing(head: &Parts, mut body: Inbound) -> Passing {
    if body.is_over() {
        return Passing::Gone;
    }
    // Asking for a body that waits for a `100 Continue` would send for it.
    let is_short = body.length().is_some_and(|length| length <= PASSING_MAX);
    if !is_short || head.headers.contains_key(EXPECT) {
        return Passing::Left;
    }
    let dropped = async {
        while !body.is_over() {
            match std::future::poll_fn(|cx| body.poll_frame(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return Passing::Left,
                None => break,
            }
        }
        Passing::Gone
    };
    within(PASSING_FOR, dropped).await.unwrap_or(Passing::Left)
}

/// What `answering` comes to; or that the worker's deadline came first, or the request's own. The connection is woken at the
/// worker's.
async fn in_time<T>(
    (gate, line, opened): (&Gate, &Line, Instant),
    mut answering: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Rejection> {
    let limit = gate.plan.request_timeout;
    let mut end = limit.map(|limit| Box::pin(sleep_until(opened + limit)));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(answered) = answering.as_mut().poll(cx) {
            return Poll::Ready(Ok(answered));
        }
        if gate.ground.drain.ends_requests_of(line) {
            return Poll::Ready(Err(Rejection::Draining));
        }
        if let (Some(end), Some(after)) = (&mut end, limit) {
            let late = |()| Err(Rejection::BackendTimeout { phase: Phase::Whole, after });
            return end.as_mut().poll(cx).map(late);
        }
        Poll::Pending
    })
    .await
}

/// Who got in, and for what.
enum Admitted {
    Caller(Route, Caller),
    /// A browser's question before the request itself.
    Answered(Answering),
}

/// The stages before the body.
fn admit(gate: &Gate, line: &Line, head: &Parts, ledger: &mut Ledger) -> Result<Admitted, Refusal> {
    let origin = identify(gate, line, head);
    ledger.identify(&origin.text, &origin.trace.id);
    let routed = screen(line, head);
    let dialect = routed.as_ref().map_or_else(|refusal| refusal.dialect, Route::dialect);
    let refused = |rejection| Refusal::new(dialect, rejection);
    guard(gate, &origin.client, &routed)?;
    if let Some(preflight) = cors::preflight(gate, head, dialect) {
        return preflight.map(Admitted::Answered).map_err(refused);
    }
    let route = routed?;
    ledger.route(&route);
    cors::judge(gate, head, dialect).map_err(refused)?;
    let holder = gate.lodge.holder(&head.headers, &origin.client, &route).map_err(refused)?;
    ledger.holder(&holder);
    holder.may_use(&route).map_err(refused)?;
    Ok(Admitted::Caller(route, Caller { origin, holder }))
}

/// The stages in their order.
async fn answer(
    gate: &Rc<Gate>,
    line: &Line,
    (head, body): (&Parts, &mut Option<Inbound>),
    ledger: &mut Ledger,
) -> Result<Answering, Refusal> {
    let (route, caller) = match admit(gate, line, head, ledger)? {
        Admitted::Caller(route, caller) => (route, caller),
        Admitted::Answered(answering) => return Ok(answering),
    };
    let dialect = route.dialect();
    let refused = |rejection| Refusal::new(dialect, rejection);
    match route {
        Route::ArticleBody => {
            let bytes = read_body(gate, line, head, body).await.map_err(refused)?;
            let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            let request = ArticleRequest::from_body(content_type, &bytes).map_err(refused)?;
            article(gate, &caller, (request, Scope::ArticleBody), ledger).await
        }
        Route::ArticleItem { prompt } => {
            article(gate, &caller, (ArticleRequest::from_item(prompt), Scope::ArticleItem), ledger).await
        }
        Route::Root | Route::OpenApi | Route::Docs(_) | Route::Healthz | Route::Readyz => Ok(pages::page(gate, &route)),
        // In boxes, this and other rare ones: the future of every request is as large as that of the largest route.
        Route::Version => Box::pin(exchange::question(gate, &caller, &route, ledger)).await.map_err(refused),
        Route::Tags | Route::Ps | Route::Models => {
            Box::pin(lists::answer(gate, &caller, &route, ledger)).await.map_err(refused)
        }
        Route::Show | Route::Model { .. } => {
            let bytes = read_body(gate, line, head, body).await.map_err(refused)?;
            let call = judge(&caller, &route, &bytes).map_err(refused)?;
            Box::pin(exchange::about(gate, &caller, (&route, &call, bytes), ledger)).await.map_err(refused)
        }
        Route::Blob { .. } => {
            let standing = charge(gate, &caller, (Scope::Api, dialect, None), ledger).await?;
            let upload = Upload { gate, line, head, body };
            let answering = Box::pin(manage::blob(&caller, &route, upload, ledger)).await.map_err(refused)?;
            Ok(told(gate, standing.as_ref(), answering))
        }
        Route::Pull | Route::Push | Route::Create | Route::Copy | Route::Delete => {
            let bytes = read_body(gate, line, head, body).await.map_err(refused)?;
            let call = judge(&caller, &route, &bytes).map_err(refused)?;
            let standing = charge(gate, &caller, (Scope::Api, dialect, None), ledger).await?;
            let answering =
                manage::work(gate, &caller, (&route, &call, bytes), (head, ledger)).await.map_err(refused)?;
            Ok(told(gate, standing.as_ref(), answering))
        }
        Route::Generate
        | Route::Chat
        | Route::Embed
        | Route::Embeddings
        | Route::ChatCompletions
        | Route::Completions
        | Route::V1Embeddings
        | Route::Responses
        | Route::Messages => {
            let bytes = read_body(gate, line, head, body).await.map_err(refused)?;
            let mut call = judge(&caller, &route, &bytes).map_err(refused)?;
            let bytes = clamp(&caller, &mut call, bytes).map_err(refused)?;
            let standing = charge(gate, &caller, (Scope::Api, dialect, Some(&call)), ledger).await?;
            let answering = exchange::infer(gate, &caller, (&route, &call, bytes), ledger).await.map_err(refused)?;
            Ok(told(gate, standing.as_ref(), answering))
        }
    }
}

/// Whose request it is.
fn identify(gate: &Gate, line: &Line, head: &Parts) -> Origin {
    let named = |client: &Client| {
        let text = HeaderValue::try_from(client.addr().to_string());
        text.unwrap_or_else(|_| HeaderValue::from_static("unknown"))
    };
    let forwarded = head.headers.get_all(&X_FORWARDED_FOR);
    let client = gate.trust.client(line.peer, forwarded.iter().map(HeaderValue::as_bytes));
    // Without the field every request of a connection comes from the same client.
    let text = match forwarded.iter().next() {
        Some(_) => named(&client),
        None => line.name.get_or_init(|| named(&client)).clone(),
    };
    Origin { client, text, trace: Trace::of(&head.headers, &gate.ids) }
}

/// Which route it takes; or why its head was refused before hyper read it.
fn screen(line: &Line, head: &Parts) -> Result<Route, Refusal> {
    if head.method.as_str() == REFUSED {
        let rejection = line.refusal().unwrap_or(Rejection::Internal);
        return Err(Refusal::new(Dialect::Gate, rejection));
    }
    // An absolute target is rare, and the only one that is not at hand as it came.
    let target = match (head.uri.scheme(), head.uri.path_and_query()) {
        (None, Some(target)) => Cow::Borrowed(target.as_str()),
        _ => Cow::Owned(head.uri.to_string()),
    };
    route(head.method.as_str(), &target).map_err(|(dialect, rejection)| Refusal::new(dialect, rejection))
}

/// The flood guard counts everything but health checks, before the body is read.
fn guard(gate: &Gate, client: &Client, routed: &Result<Route, Refusal>) -> Result<(), Refusal> {
    let Some(flood) = &gate.flood else { return Ok(()) };
    let dialect = match routed {
        Ok(Route::Healthz | Route::Readyz) => return Ok(()),
        Ok(route) => route.dialect(),
        Err(refusal) => refusal.dialect,
    };
    flood.guard(client).map_err(|Refused { retry, .. }| {
        gate.row.add_one(row::LIMITED);
        Refusal::new(dialect, Rejection::Flooded { retry })
    })
}

/// The whole body, within its cap and its pauses.
async fn read_body(gate: &Gate, line: &Line, head: &Parts, body: &mut Option<Inbound>) -> Result<Bytes, Rejection> {
    if head.headers.get(CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Rejection::UnsupportedEncoding);
    }
    let Some(mut body) = body.take() else { return Ok(Bytes::new()) };
    let max = gate.plan.max_body;
    let too_large = |_: OverCap| Rejection::BodyTooLarge { limit: max as u64 };
    if body.length().is_some_and(|length| length > max as u64) {
        return Err(too_large(OverCap));
    }
    let mut gather = Gather::default();
    while let Some(data) = piece(gate, line, &mut body).await? {
        gather.add(data, max).map_err(too_large)?;
    }
    Ok(gather.whole())
}

/// The next piece of a body, within its pauses; none at its end.
pub(crate) async fn piece(gate: &Gate, line: &Line, body: &mut Inbound) -> Result<Option<Bytes>, Rejection> {
    let after = gate.plan.body_timeout;
    while !body.is_over() {
        let next = std::future::poll_fn(|cx| body.poll_frame(cx));
        let Some(frame) = within(after, next).await.map_err(|_| Rejection::BodyTimeout { after })? else { break };
        // A body that breaks the framing was refused by the wire, which kept the reason.
        let frame = frame.map_err(|_| {
            line.refusal().unwrap_or(Rejection::MalformedHead { reason: "a body that ended before its end" })
        })?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// What a body asks for, if its caller may name the models that it names.
fn judge(caller: &Caller, route: &Route, body: &[u8]) -> Result<Call, Rejection> {
    let call = call::judge(route, body)?;
    caller.holder.may_name(&call)?;
    Ok(call)
}

/// The body held to what its caller may ask for.
fn clamp(caller: &Caller, call: &mut Call, body: Bytes) -> Result<Bytes, Rejection> {
    Ok(call.clamp(&body, &caller.holder.terms.clamps)?.map_or(body, Bytes::from))
}

/// Charges a request that is valid; where its client stands then.
async fn charge(
    gate: &Gate,
    caller: &Caller,
    (scope, dialect, call): (Scope, Dialect, Option<&Call>),
    ledger: &mut Ledger,
) -> Result<Option<Standing>, Refusal> {
    let charged = bill::charge(gate, &caller.holder, Cause { scope, call }).await;
    let (bill, standing) =
        charged.map_err(|Unaffordable { rejection, standing }| Refusal { dialect, rejection, standing })?;
    ledger.charge(bill);
    Ok(standing)
}

/// The article's routes: one question, one whole answer.
async fn article(
    gate: &Rc<Gate>,
    caller: &Caller,
    (request, scope): (ArticleRequest<'_>, Scope),
    ledger: &mut Ledger,
) -> Result<Answering, Refusal> {
    let refused = |rejection| Refusal::new(Dialect::Article, rejection);
    // As in the replaced stack, where the limit comes before everything; what a key may ask for depends on the model.
    let counted = match caller.holder.name {
        None => Some(charge(gate, caller, (scope, Dialect::Article, None), ledger).await?),
        Some(_) => None,
    };
    let model = match &gate.model {
        Some(model) => Rc::clone(model),
        None => Box::pin(newest(gate, &caller.holder)).await.map_err(refused)?,
    };
    ledger.model(&model);
    let mut body = Bytes::from(request.upstream_body(&model));
    let mut call = None;
    let standing = if let Some(standing) = counted {
        standing
    } else {
        let judged = call.insert(judge(caller, &Route::Generate, &body).map_err(refused)?);
        body = clamp(caller, judged, body).map_err(refused)?;
        charge(gate, caller, (scope, Dialect::Article, call.as_ref()), ledger).await?
    };
    let options = call.as_ref().map_or("", |call| call.load_options.as_str());
    let want = exchange::want(gate, caller, &model, (options, 0));
    let body = exchange::article(gate, caller, (want, body), ledger).await.map_err(refused)?;
    Ok(told(gate, standing.as_ref(), Answering::whole(StatusCode::OK, "application/json", body)))
}

/// An answer with where its client stands, where the operator wants it told.
fn told(gate: &Gate, standing: Option<&Standing>, mut answering: Answering) -> Answering {
    limit_fields(gate, standing, &mut answering);
    answering
}

/// The newest model that the client may use, for requests that name none, as the first of the backends says that can.
async fn newest(gate: &Gate, holder: &Holder) -> Result<Rc<str>, Rejection> {
    let mut tried = 0;
    loop {
        let member = gate.fleet.any(tried)?;
        tried |= member.cell().bit();
        match gate.newest.name(&member.backend, |name| holder.may_see(name)).await {
            Err(_) if gate.fleet.has_more(tried) => {}
            named => return named,
        }
    }
}

/// The X-RateLimit fields, where the operator wants them.
fn limit_fields(gate: &Gate, standing: Option<&Standing>, answering: &mut Answering) {
    if !gate.plan.limit_headers {
        return;
    }
    let Some(standing) = standing else { return };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let whole = |number: u64| HeaderValue::from(number);
    let seconds = standing.reset.as_secs() + u64::from(standing.reset.subsec_nanos() > 0);
    answering.fields.insert("x-ratelimit-limit", whole(standing.limit.amount));
    answering.fields.insert("x-ratelimit-remaining", whole(standing.remaining));
    answering.fields.insert("x-ratelimit-reset", whole(now.as_secs() + seconds));
    answering.fields.insert("retry-after", whole(seconds));
}

/// The one door: a refusal becomes an answer.
fn refuse(gate: &Rc<Gate>, line: &Line, head: &Parts, refusal: Refusal, mut ledger: Box<Ledger>) -> Response<Outbound> {
    let Refusal { dialect, mut rejection, standing } = refusal;
    if let Rejection::Redirect { location } = &mut rejection {
        *location = format!("{}{location}", origin(gate, line, head));
    }
    {
        let terms = rejection.terms();
        ledger.refused(terms.fault, &terms.log);
        if terms.fault != Fault::Client
            && let Some(held_back) = gate.warnings.pass(clock::monotonic_ms())
        {
            let more = if held_back > 0 { format!(" ({held_back} more warnings held back)") } else { String::new() };
            // The route and not the path, which holds the prompt on one of them.
            log::warn!("{} {}: {}{more}", head.method, ledger.route_name(), terms.log);
        }
    }
    let headers = if gate.plan.limit_headers { LimitHeaders::On } else { LimitHeaders::Off };
    let mut answering = Answering::refusal(rejection.answer_with(dialect, headers, ledger.id()));
    if standing.is_some() {
        limit_fields(gate, standing.as_ref(), &mut answering);
    }
    answering.send(gate, ledger)
}

/// Scheme and host that the client used, as far as it can be believed.
fn origin(gate: &Gate, line: &Line, head: &Parts) -> String {
    let said = head.headers.get("x-forwarded-proto").and_then(|scheme| scheme.to_str().ok());
    let scheme = match said.map(str::trim) {
        Some("https") if gate.trust.is_trusted(line.peer) => "https",
        _ => "http",
    };
    match head.headers.get(HOST).and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty()) {
        Some(host) => format!("{scheme}://{host}"),
        None => line.local.map_or(String::new(), |local| format!("{scheme}://{local}")),
    }
}
