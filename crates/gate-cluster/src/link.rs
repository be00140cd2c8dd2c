//! The connection to the store: made when first needed, kept, and made anew after it failed.
//!
//! It decides neither when to ask nor how long to wait. Invariant: at most one attempt is under way, and it outlives
//! whoever wanted it: a store whose connection takes longer than a request's patience is reached all the same.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{AsyncConnectionConfig, Client, RedisResult};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::terms::Address;

/// How long an attempt may take: a name to be looked up, sentinels to be asked, TLS.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// A connection. Copies share it.
#[derive(Clone)]
pub(crate) enum Line {
    Alone(MultiplexedConnection),
    Nodes(ClusterConnection),
}

impl Line {
    /// Whether anybody is there.
    pub(crate) async fn ping(&mut self) -> RedisResult<()> {
        let ping = redis::cmd("PING");
        match self {
            Self::Alone(line) => ping.query_async(line).await,
            Self::Nodes(line) => ping.query_async(line).await,
        }
    }
}

/// The way to the store.
pub(crate) struct Link {
    address: Address,
    line: RefCell<Option<Line>>,
    /// Why there is none.
    failure: RefCell<String>,
    /// Attempts that have ended.
    attempts: Cell<u64>,
    is_connecting: Cell<bool>,
    ended: Notify,
}

impl Link {
    pub(crate) fn new(address: Address) -> Self {
        Self {
            address,
            line: RefCell::default(),
            failure: RefCell::default(),
            attempts: Cell::new(0),
            is_connecting: Cell::new(false),
            ended: Notify::new(),
        }
    }

    /// The connection and its number, above 0; waits for the attempt under way, or for a new one.
    ///
    /// # Errors
    /// Why the attempt failed.
    pub(crate) async fn line(self: &Rc<Self>) -> Result<(Line, u64), String> {
        let attempts = self.attempts.get();
        loop {
            if let Some(line) = self.line.borrow().as_ref() {
                return Ok((line.clone(), self.attempts.get()));
            }
            if self.attempts.get() != attempts {
                return Err(self.failure.borrow().clone());
            }
            let ended = self.ended.notified();
            if !self.is_connecting.replace(true) {
                spawn_local(Rc::clone(self).connect());
            }
            ended.await;
        }
    }

    /// Gives up the connection of this number, which failed.
    pub(crate) fn forget(&self, serial: u64) {
        if self.attempts.get() == serial {
            self.line.take();
        }
    }

    async fn connect(self: Rc<Self>) {
        let made = match tokio::time::timeout(CONNECT_MAX, self.address.connect()).await {
            Ok(made) => made.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no connection within {CONNECT_MAX:?}")),
        };
        match made {
            Ok(line) => *self.line.borrow_mut() = Some(line),
            Err(why) => *self.failure.borrow_mut() = why,
        }
        self.attempts.set(self.attempts.get() + 1);
        self.is_connecting.set(false);
        self.ended.notify_waiters();
    }
}

impl Address {
    async fn connect(&self) -> RedisResult<Line> {
        // Whoever asks keeps the time, for an answer as for a connection.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let client = match self {
            Self::Alone(info) => Client::open(info.as_ref().clone())?,
            Self::Nodes(nodes) => {
                let client = ClusterClient::builder(nodes.clone()).connection_timeout(CONNECT_MAX).build()?;
                return client.get_async_connection().await.map(Line::Nodes);
            }
            Self::Sentinels { sentinels, service, settings, tls } => {
                let mut node = SentinelNodeConnectionInfo::default().set_redis_connection_info(settings.clone());
                if let Some(tls) = tls {
                    node = node.set_tls_mode(*tls);
                }
                let kind = SentinelServerType::Master;
                let mut client = SentinelClient::build(sentinels.clone(), service.clone(), Some(node), kind)?;
                client.async_get_client().await?
            }
        };
        client.get_multiplexed_async_connection_with_config(&config).await.map(Line::Alone)
    }
}
