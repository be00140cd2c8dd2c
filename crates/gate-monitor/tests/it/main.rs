//! A running monitor: what it writes into the zone about real servers, and about names that a real DNS server answers for.

mod backends;
mod names;
mod support;
