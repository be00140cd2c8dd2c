//! Telling a gate that runs that its key file has changed.

use std::path::Path;

use gate_master::protocol::{Answer, KeysRead, KeysUse, Request};

use crate::ask::{self, Silence};
use crate::socket::Place;
use crate::status::printable;

/// What came of it.
pub(super) enum Told {
    /// The gate has read the file: these keys are in force.
    InForce(KeysUse),
    /// A gate answers that has another key file, or none.
    Elsewhere(String),
    /// No gate runs there, as far as can be seen.
    Nobody(String),
    /// The gate may not be asked by this user.
    NotPermitted(String),
    /// It was asked and has not answered.
    Silent(String),
    /// It does not take the file, and goes on with the keys before.
    Refused(Vec<String>),
}

/// What to do where no gate was told.
const REMEDY: &str = "one that runs takes the change with `ollama-gate reload`, or `kill -HUP PID`";

/// Has the gate read `file` again.
pub(super) fn tell(file: &Path, control: Option<&Path>, config: Option<&Path>) -> Told {
    let place = match Place::find(control, config) {
        Ok(place) => place,
        Err(complaints) => return Told::Nobody(format!("no gate is told: {complaints}; {REMEDY}")),
    };
    let request = Request::Keys {};
    let reply = match ask::ask(&place.path, &request, Some(ask::ANSWER)) {
        Ok(reply) => reply,
        Err(silence) => {
            let said = format!("no gate is told at {place}: {silence}; {REMEDY}");
            return match silence {
                Silence::Nobody(_) => Told::Nobody(said),
                Silence::NotPermitted(_) => Told::NotPermitted(said),
                Silence::Late(_) | Silence::Closed | Silence::Strange(_) => Told::Silent(said),
            };
        }
    };
    match Answer::parse(&reply.line, &request) {
        Ok(Answer::Keys(KeysRead { keys: Some(keys) })) if Path::new(&keys.file) == file => Told::InForce(keys),
        Ok(Answer::Keys(KeysRead { keys: Some(keys) })) => Told::Elsewhere(format!(
            "the gate at {place} has another key file, {}: name its file with --keys, or another gate with --control",
            printable(&keys.file)
        )),
        Ok(Answer::Keys(KeysRead { keys: None })) => Told::Elsewhere(format!(
            "the gate at {place} asks for no keys: set `keys` to {} in its configuration, and reload it",
            file.display()
        )),
        Ok(Answer::Refused { reasons }) => Told::Refused(reasons.iter().map(|reason| printable(reason)).collect()),
        Ok(_) => Told::Silent(format!("the gate at {place} answers something else; {REMEDY}")),
        Err(error) => {
            Told::Silent(format!("the gate at {place} does not know of keys ({}); {REMEDY}", printable(&error)))
        }
    }
}
