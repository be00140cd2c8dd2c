//! What a request is charged before it runs, and what it has cost in the end: the limits of requests, the place among those
//! in service, the tokens.
//!
//! Tokens are taken by an estimate, because afterwards is too late, and settled by what the backend says it did; where it
//! does not say, by what was seen. A request that came to nothing costs none.
//!
//! Invariant: what was reserved is settled once, when the request is over, whichever way it ends.

use gate_api::Rejection;
use gate_api::call::Call;
use gate_limit::{Hold, Refused, Reservation, Scope, Standing};
use gate_zone::layout::row;

use crate::gate::Gate;
use crate::holder::{Holder, Requests};

/// Tokens of an answer that nothing bounds, for the estimate: a page of text. What it is more or less is settled.
const TOKENS_UNSAID: u64 = 512;

/// What a request holds until it is over.
pub(crate) struct Bill {
    /// Its place among its key's requests in service, given back by its drop.
    _hold: Option<Hold>,
    reserved: Option<Reservation>,
    /// Tokens of the prompt, guessed.
    prompt: u64,
}

/// What was done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// Nothing that anybody could use.
    Nothing,
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
/// Something of it is more than its holder has left; nothing but a count of requests stays charged.
pub(crate) fn charge(gate: &Gate, holder: &Holder, cause: Cause<'_>) -> Result<(Bill, Option<Standing>), Unaffordable> {
    let limited = |unaffordable: Unaffordable| {
        gate.row.add_one(row::LIMITED);
        unaffordable
    };
    let hold = holder.hold(&gate.lodge.concurrency).map_err(|why| limited(why.into()))?;
    let Cause { scope, call } = cause;
    let permit = match holder.terms.requests {
        Requests::Gate => gate.admission.admit(&holder.subject, scope),
        Requests::Own => holder.terms.budget.admit(&holder.subject),
    };
    let permit = permit.map_err(|refused| limited(refused.into()))?;
    let mut bill = Bill { _hold: hold, reserved: None, prompt: 0 };
    if let Some(call) = call.filter(|_| holder.terms.has_tokens) {
        let estimate = call.estimate(TOKENS_UNSAID);
        bill.prompt = estimate.saturating_sub(call.tokens_asked.unwrap_or(TOKENS_UNSAID));
        let reserved = holder.terms.budget.reserve(&holder.subject, estimate);
        bill.reserved = Some(reserved.map_err(|refused| limited(refused.into()))?);
    }
    Ok((bill, permit.standing().cloned()))
}

impl Bill {
    /// Settles it by what was done.
    pub(crate) fn settle(self, done: Done) {
        let Some(reserved) = self.reserved else { return };
        reserved.settle(match done {
            Done::Nothing => 0,
            Done::Seen { tokens } => self.prompt + tokens,
            Done::Told { prompt, tokens } => prompt.unwrap_or(self.prompt) + tokens,
        });
    }
}
