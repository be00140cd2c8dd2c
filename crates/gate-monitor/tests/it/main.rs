//! A running monitor: what it writes into the zone about real servers, and about names that a real DNS server answers for.

#[cfg(test)]
mod backends;
#[cfg(test)]
mod names;
#[cfg(test)]
mod support;
