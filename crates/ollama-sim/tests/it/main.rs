//! The simulation as its clients see it: every test talks to it over a plain socket.

#[cfg(test)]
mod counters;
#[cfg(test)]
mod dialects;
#[cfg(test)]
mod echo;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod library;
#[cfg(test)]
mod program;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod scheduling;
#[cfg(test)]
mod support;
#[cfg(test)]
mod unix;
