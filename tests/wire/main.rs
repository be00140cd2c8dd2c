//! The gate as its clients and its backend see it: bytes over sockets, from a real gate with real workers.
//!
//! It does not test processes and their signals for their own sake. Invariant: no test depends on how long anything
//! takes; what is waited for is observed.

#[cfg(test)]
mod admission;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod intake;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod leaving;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod pipelines;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod streams;
#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;
#[cfg(test)]
mod upstream;
