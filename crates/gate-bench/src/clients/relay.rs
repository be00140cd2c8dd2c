//! What a relayed event of a chat in OpenAI's dialect costs, beside nginx.

use super::Ground;
use crate::Bench;
use crate::chunks::{self, line::Shape};
use crate::complaint::Complaint;
use crate::options::Options;
use crate::peer::Peers;
use crate::tools::Tools;

/// As `compare` measures lines.
pub(crate) fn measure(ground: &Ground<'_>, rounds: u32, seconds: u32) -> Result<Vec<chunks::Found>, Complaint> {
    let tools = Tools::find()?;
    let options = Options::beside_nginx(rounds, seconds);
    let peers = Peers::find(&options, Ok(ground.gate.to_owned()));
    let bench = Bench { options: &options, tools: &tools, folder: ground.folder, peers: &peers };
    chunks::measure(&bench, Shape::Events)
}
