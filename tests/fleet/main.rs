//! Many backends behind one gate: real workers in front of simulated Ollamas, asked over sockets.
//!
//! It tests what clients, backends and operators can see; which words of the zone make it so is tested beside them.
//! Invariant: no test depends on how long anything takes, but for those whose subject is a time; what is waited for is
//! observed.

#[cfg(test)]
mod accounting;
#[cfg(test)]
mod choosing;
#[cfg(test)]
mod fairness;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod stage;
#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;
