//! Requests a second and processor time for each in front of several backends, beside nginx.

use super::Ground;
use crate::Bench;
use crate::article;
use crate::complaint::Complaint;
use crate::options::Options;
use crate::peer::Peers;
use crate::tools::Tools;
use crate::upstream::Upstream;
use crate::wrk::Request;

/// Backends, as the bar has it.
pub(crate) const BACKENDS: usize = 4;

/// As `compare` measures it, with nginx's `least_conn` in front of as many backends.
pub(crate) fn measure(ground: &Ground<'_>, rounds: u32, seconds: u32) -> Result<Vec<article::Found>, Complaint> {
    let tools = Tools::find()?;
    let options = Options::beside_nginx(rounds, seconds);
    let peers = Peers::find(&options, Ok(ground.gate.to_owned()));
    println!("- {}; {}", tools.nginx_version(), tools.seats);
    let upstream = Upstream::start(&tools, ground.folder, BACKENDS)?;
    let bench = Bench { options: &options, tools: &tools, folder: ground.folder, peers: &peers };
    article::measure(&bench, &upstream, |_| Request::of_article())
}
