//! What a request is charged before it runs, and what it has cost in the end: the limits of requests, the place among those
//! in service, the tokens.
//!
//! Tokens are taken by an estimate, because afterwards is too late, and settled by what the backend says it did; where it
//! does not say, by what was seen. A request that came to nothing costs none. Counts are this gate's own, or those of several
//! where there is a store that they share.
//!
//! Invariant: what was reserved is settled once, when the request is over, whichever way it ends.

use gate_api::Rejection;
use gate_api::call::{Call, Stream};
use gate_cluster::{Cluster, Passage};
use gate_limit::{Budget, Hold, Refused, Reservation, Scope, Standing, Subject};
use gate_zone::layout::row;
use gate_zone::limiter::fixed::AMOUNT_MAX;

use crate::gate::Gate;
use crate::holder::{Holder, Requests};

/// Tokens of an answer that nothing bounds, for the estimate: a page of text. What it is more or less is settled.
const TOKENS_UNSAID: u64 = 512;

/// What a request holds until it is over.
pub(crate) struct Bill {
    /// Its place among its key's requests in service, given back by its drop.
    _hold: Option<Hold>,
    tokens: Tokens,
    /// Tokens of the prompt, guessed.
    prompt: u64,
    /// What it costs if nobody knows how far it came: of a stream the prompt, since none of it has passed; otherwise the whole,
    /// guessed.
    unknown: u64,
}

/// Tokens that are reserved.
enum Tokens {
    /// None are counted.
    Uncounted,
    /// In this gate's counts.
    Here(Reservation),
    /// In those of several gates.
    Shared(Shared),
}

/// What was taken of counts that several gates share. Dropped unsettled, it gives all back.
struct Shared {
    cluster: Cluster,
    subject: Subject,
    passages: Vec<Passage>,
}

impl Shared {
    fn settle(mut self, used: u64) {
        self.conclude(used);
    }

    fn conclude(&mut self, used: u64) {
        for passage in self.passages.drain(..) {
            self.cluster.settle(&self.subject, Budget::TOKENS, &passage, used);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.conclude(0);
    }
}

/// What was done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// Nothing that anybody could use.
    Nothing,
    /// It was worked on, and nobody knows for how long: its client left, or its time was over, before any of its answer came.
    Unknown,
    /// It was worked on, and so much was seen to come of it.
    Seen { tokens: u64 },
    /// The backend said what it did. It says nothing of a prompt that it still knew.
    Told { prompt: Option<u64>, tokens: u64 },
}

/// A request that may not run, and where its client stands if a limit refused.
pub(crate) struct Unaffordable {
    pub(crate) rejection: Rejection,
    pub(crate) standing: Option<Standing>,
}

impl From<Rejection> for Unaffordable {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, standing: None }
    }
}

impl From<Refused> for Unaffordable {
    fn from(refused: Refused) -> Self {
        let rejection = Rejection::RateLimited { limit: refused.limit.text.clone(), retry: refused.retry };
        Self { rejection, standing: Some(refused.standing()) }
    }
}

/// What a request is counted for.
#[derive(Clone, Copy)]
pub(crate) struct Cause<'a> {
    pub(crate) scope: Scope,
    /// What it asks of a model, where it is known.
    pub(crate) call: Option<&'a Call>,
}

/// Charges a request that is valid, and says where its client stands now.
///
/// # Errors
/// Something of it is more than its holder has left; nothing but counts of requests stays charged.
pub(crate) async fn charge(
    gate: &Gate,
    holder: &Holder,
    cause: Cause<'_>,
) -> Result<(Bill, Option<Standing>), Unaffordable> {
    let charged = match &gate.cluster {
        None => here(gate, holder, cause),
        // In a box: few gates share their counts.
        Some(cluster) => Box::pin(shared(gate, cluster, holder, cause)).await,
    };
    charged.inspect_err(|_| gate.row.add_one(row::LIMITED))
}

/// By this gate's own counts.
fn here(gate: &Gate, holder: &Holder, cause: Cause<'_>) -> Result<(Bill, Option<Standing>), Unaffordable> {
    let hold = holder.hold(&gate.lodge.concurrency)?;
    let terms = &holder.terms;
    let permit = match terms.requests {
        Requests::Gate => gate.admission.admit(&holder.subject, cause.scope)?,
        Requests::Own => terms.budget.admit(&holder.subject)?,
    };
    let mut bill = Bill { _hold: hold, tokens: Tokens::Uncounted, prompt: 0, unknown: 0 };
    if let Some((prompt, estimate)) = estimate(holder, cause) {
        bill.expects(cause, (prompt, estimate));
        bill.tokens = Tokens::Here(terms.budget.reserve(&holder.subject, estimate)?);
    }
    Ok((bill, permit.standing().cloned()))
}

/// By the counts of all gates. As [`here`]: the gate's limits are charged in their order and nothing of them is given back, of
/// a key's own all are charged or none.
async fn shared(
    gate: &Gate,
    cluster: &Cluster,
    holder: &Holder,
    cause: Cause<'_>,
) -> Result<(Bill, Option<Standing>), Unaffordable> {
    let hold = holder.hold(&gate.lodge.concurrency)?;
    let (terms, subject) = (&holder.terms, &holder.subject);
    let mut visit = cluster.visit();
    let mut standing = None;
    match terms.requests {
        Requests::Gate => {
            for limit in gate.admission.limits(cause.scope) {
                visit.take(subject, cause.scope as u64, limit, 1).await?.standing.show_in(&mut standing);
            }
        }
        Requests::Own => {
            let mut taken: Vec<Passage> = Vec::new();
            for limit in terms.budget.request_limits() {
                match visit.take(subject, Budget::REQUESTS, limit, 1).await {
                    Ok(passage) => {
                        passage.standing.clone().show_in(&mut standing);
                        taken.push(passage);
                    }
                    Err(refused) => {
                        for passage in &taken {
                            cluster.settle(subject, Budget::REQUESTS, passage, 0);
                        }
                        return Err(refused.into());
                    }
                }
            }
        }
    }
    let mut bill = Bill { _hold: hold, tokens: Tokens::Uncounted, prompt: 0, unknown: 0 };
    if let Some((prompt, estimate)) = estimate(holder, cause) {
        bill.expects(cause, (prompt, estimate));
        let mut shared = Shared { cluster: cluster.clone(), subject: *subject, passages: Vec::new() };
        for limit in terms.budget.token_limits() {
            shared.passages.push(visit.take(subject, Budget::TOKENS, limit, estimate).await?);
        }
        bill.tokens = Tokens::Shared(shared);
    }
    Ok((bill, standing))
}

/// Tokens of the prompt and of the whole, guessed; none where nobody counts them.
fn estimate(holder: &Holder, cause: Cause<'_>) -> Option<(u64, u64)> {
    let call = cause.call.filter(|_| holder.terms.has_tokens)?;
    let estimate = call.estimate(TOKENS_UNSAID);
    Some((estimate.saturating_sub(call.tokens_asked.unwrap_or(TOKENS_UNSAID)), estimate))
}

impl Bill {
    /// Notes what its request is guessed to cost: the prompt, and the whole.
    fn expects(&mut self, cause: Cause<'_>, (prompt, whole): (u64, u64)) {
        let streams = cause.call.is_some_and(|call| call.stream == Stream::Yes);
        (self.prompt, self.unknown) = (prompt, if streams { prompt } else { whole });
    }

    /// Settles it by what was done.
    pub(crate) fn settle(self, done: Done) {
        let used = match done {
            Done::Nothing => 0,
            Done::Unknown => self.unknown,
            Done::Seen { tokens } => self.prompt.saturating_add(tokens),
            Done::Told { prompt, tokens } => prompt.unwrap_or(self.prompt).saturating_add(tokens),
        };
        // What a backend tells may be any number.
        let used = used.min(AMOUNT_MAX);
        match self.tokens {
            Tokens::Uncounted => {}
            Tokens::Here(reservation) => reservation.settle(used),
            Tokens::Shared(shared) => shared.settle(used),
        }
    }
}
