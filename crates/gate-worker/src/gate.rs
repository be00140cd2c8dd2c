//! What a worker's requests share: built once from the plan and the zone, changed by nobody.

use std::rc::Rc;
use std::time::Duration;

use gate_config::{Plan, Rate, Strategy, TrustedProxies};
use gate_limit::{Admission, Clock, Flood, Limit, LimitError, Spec, Tables, Trust};
use gate_upstream::{Backend, NewestModel, Timeouts};
use gate_zone::{OwnRow, Place, Zone, clock};
use tokio::time::Instant;

use crate::journal::Journal;
use crate::ledger::LogClock;
use crate::throttle::{Spell, Throttle};
use crate::wire::Ground;

/// Everything that a request meets on its way.
pub(crate) struct Gate {
    pub(crate) plan: Rc<Plan>,
    pub(crate) place: Place,
    pub(crate) zone: Zone,
    pub(crate) row: Rc<OwnRow>,
    pub(crate) start: Start,
    pub(crate) trust: Trust,
    pub(crate) admission: Admission,
    pub(crate) flood: Option<Flood>,
    pub(crate) backend: Backend,
    /// The model of the article's routes, when the operator names one.
    pub(crate) model: Option<Rc<str>>,
    pub(crate) newest: NewestModel,
    pub(crate) journal: Option<Journal>,
    pub(crate) clock: LogClock,
    pub(crate) warnings: Throttle,
    /// A time in which connections could not be accepted.
    pub(crate) scarcity: Spell,
    pub(crate) ground: Rc<Ground>,
}

/// When this worker began, on both clocks: the event loop's, and the one that the zone's readers know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    instant: Instant,
    ms: u64,
}

impl Start {
    pub(crate) fn now() -> Self {
        Self { instant: Instant::now(), ms: clock::monotonic_ms() }
    }

    /// `CLOCK_MONOTONIC` in ms at a moment of the event loop's clock, without asking the kernel again.
    pub(crate) fn monotonic_ms(self, moment: Instant) -> u64 {
        self.ms + moment.saturating_duration_since(self.instant).as_millis() as u64
    }

    /// How long ago it was.
    pub(crate) fn age(self) -> Duration {
        self.instant.elapsed()
    }
}

/// The backend of a plan, or the demo in its place.
pub(crate) fn backend(plan: &Plan, demo: Option<std::net::SocketAddr>, row: Rc<OwnRow>) -> Backend {
    let timeouts = Timeouts { connect: plan.connect_timeout, first_byte: plan.first_byte_timeout };
    match demo {
        Some(address) => Backend::new(&address.to_string(), "", timeouts, row),
        None => Backend::new(&plan.upstream[0].target.authority(), plan.upstream[0].target.prefix(), timeouts, row),
    }
}

pub(crate) fn trust(plan: &Plan) -> Trust {
    match &plan.forwarded_allow_ips {
        TrustedProxies::Everyone => Trust::everyone(),
        TrustedProxies::Blocks(blocks) => Trust::networks(blocks.clone()),
    }
}

pub(crate) fn admission(plan: &Plan, zone: Zone) -> Result<Admission, LimitError> {
    let tables = Tables { windows: zone.windows().collect(), gcra: zone.gcra_region() };
    let article: Vec<Limit> = plan.limit.iter().map(limit).collect();
    let spec = Spec {
        strategy: match plan.limit_strategy {
            Strategy::FixedWindow => gate_limit::Strategy::FixedWindow,
            Strategy::Gcra => gate_limit::Strategy::Gcra,
        },
        article_body: article.clone(),
        article_item: article,
        api: plan.api_limit.iter().map(limit).collect(),
    };
    Admission::new(&tables, zone.seed(), Clock::new(move || zone.now_ns()), spec)
}

pub(crate) fn flood(plan: &Plan, zone: Zone) -> Result<Option<Flood>, LimitError> {
    let Some(rate) = &plan.flood else { return Ok(None) };
    Flood::new(zone.gcra_region(), zone.seed(), Clock::new(move || zone.now_ns()), limit(rate)).map(Some)
}

fn limit(rate: &Rate) -> Limit {
    Limit {
        amount: rate.amount,
        window: rate.window(),
        unit: Duration::from_secs(rate.unit.seconds()),
        text: rate.to_string(),
    }
}
