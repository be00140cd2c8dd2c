//! What a worker's requests share: built once from the plan and the zone, changed by nobody.

use std::rc::Rc;
use std::time::Duration;

use gate_api::native;
use gate_api::origin::Origins;
use gate_cluster::{Cluster, ClusterError};
use gate_config::{Plan, Rate, Strategy, Target, TrustedProxies, Upstream};
use gate_limit::{Admission, Clock, Flood, Limit, LimitError, Tables, Trust};
use gate_upstream::{Fleet, NewestModel, Reach, Rules, Spec, Timeouts};
use gate_zone::fleet::breaker;
use gate_zone::fleet::queue::Bounds;
use gate_zone::fleet::slots::Holder;
use gate_zone::{Bells, OwnRow, Place, Zone, clock};
use tokio::time::Instant;

use crate::holder::{Keys, Lodge};
use crate::journal::Journal;
use crate::ledger::LogClock;
use crate::throttle::{Spell, Throttle};
use crate::trace::Ids;
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
    /// Whose requests they are, where there are keys.
    pub(crate) lodge: Lodge,
    /// The store in which several gates count, where there is one.
    pub(crate) cluster: Option<Cluster>,
    /// Pages that may ask.
    pub(crate) origins: Origins,
    pub(crate) flood: Option<Flood>,
    pub(crate) fleet: Rc<Fleet>,
    /// Names for requests whose clients gave them none.
    pub(crate) ids: Ids,
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

/// This process, as it holds words of the zone: by its row and pid.
pub(crate) fn process(row: &OwnRow, index: usize) -> Holder {
    Holder::new(index, row.row().pid().unwrap_or(0))
}

/// Who is let in, and for what.
pub(crate) fn lodge(plan: &Plan, zone: Zone, process: Holder) -> Result<Lodge, LimitError> {
    Lodge::new(if plan.keys.is_some() { Keys::Asked } else { Keys::Unasked }, zone, process)
}

/// The store in which several gates count; `password` is its own, where that stands in a file.
pub(crate) fn cluster(plan: &Plan, zone: Zone, password: Option<String>) -> Result<Option<Cluster>, ClusterError> {
    let Some(url) = &plan.cluster_url else { return Ok(None) };
    let terms = gate_cluster::Terms {
        url: url.reveal().to_owned(),
        password,
        share: plan.cluster_share.fraction(),
        timeout: plan.cluster_timeout,
        prefix: plan.cluster_prefix.clone(),
    };
    Cluster::new(zone, terms).map(Some)
}

/// The backends of a plan, or the demo in their place, as this worker reaches them.
pub(crate) fn fleet(
    plan: &Plan,
    demo: Option<std::net::SocketAddr>,
    (zone, row, process): (Zone, Rc<OwnRow>, Holder),
    bells: Rc<Bells>,
) -> Fleet {
    let timeouts = Timeouts { connect: plan.connect_timeout, first_byte: plan.first_byte_timeout };
    let specs = match demo {
        Some(address) => plan.upstream.iter().take(1).map(|upstream| of_demo(upstream, address)).collect(),
        None => plan.upstream.iter().map(spec).collect(),
    };
    let rules = Rules {
        queue: Bounds { all: plan.queue, per_client: plan.queue_per_client },
        queue_timeout: plan.queue_timeout,
        swap_patience: plan.swap_patience,
        load_timeout: plan.load_timeout,
        breaker: breaker::Terms { failures: plan.breaker_failures, time: plan.breaker_time },
        // Until it is known whether it answers at all; what takes longer is a load, and no failure.
        trial: plan.connect_timeout + plan.breaker_time,
    };
    Fleet::new(zone.fleet(), (process, row), (specs, timeouts), rules, move |row| bells.ring(row))
}

/// The demo in the place of a backend, whose cell it has.
fn of_demo(upstream: &Upstream, address: std::net::SocketAddr) -> Spec {
    let (authority, prefix) = (address.to_string(), String::new());
    Spec { name: "demo".to_owned(), reach: Reach::Http { authority, prefix }, models: Vec::new(), ..spec(upstream) }
}

fn spec(upstream: &Upstream) -> Spec {
    let reach = match &upstream.target {
        Target::Http { prefix, .. } => Reach::Http { authority: upstream.target.authority(), prefix: prefix.clone() },
        Target::Unix { path } => Reach::Unix(path.clone()),
        Target::Dns { name, prefix, .. } => Reach::Found { host: name.clone(), prefix: prefix.clone() },
    };
    Spec {
        name: upstream.name.clone(),
        url: upstream.url(),
        reach,
        weight: upstream.weight,
        slots: upstream.slots.into(),
        models: upstream.models.iter().map(|model| native::listed_as(model)).collect(),
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
    let spec = gate_limit::Spec {
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

/// A rate of requests as it is counted.
pub(crate) fn limit(rate: &Rate) -> Limit {
    Limit {
        amount: rate.amount,
        window: rate.window(),
        unit: Duration::from_secs(rate.unit.seconds()),
        text: rate.to_string(),
    }
}

/// A rate of tokens as it is counted.
pub(crate) fn token_limit(rate: &Rate) -> Limit {
    let limit = limit(rate);
    let (amount, rest) = limit.text.split_once(' ').unwrap_or((&limit.text, ""));
    Limit { text: format!("{amount} tokens {rest}"), ..limit }
}
