//! The command `fleet`: what the gate must reach in front of many backends, measured on this machine in one run.

mod lease;
pub(crate) mod options;

pub(crate) use options::Options;

use crate::complaint::Complaint;
use options::Part;

/// Measures all that is asked for.
pub(crate) fn run(options: &Options) -> Result<(), Complaint> {
    if options.does(Part::Lease) {
        println!("{:?}", lease::measure()?);
    }
    Ok(())
}
