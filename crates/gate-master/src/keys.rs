//! The keys of clients: from their file into the zone, where every worker sees them at once.
//!
//! They change without a reload too: the file is read whenever somebody asks. Whether a request's key is right is for
//! the workers. Invariant: keys are published all or none, after everything about their file was found good; until then,
//! and until the configuration that names the file is in service, those before stay in force.

use std::path::Path;
use std::time::Duration;

use gate_config::keyfile::{self, KeyFile};
use gate_config::{Plan, WINDOWS_MAX};
use gate_sys::listen::Address;
use gate_sys::shared::SharedWords;
use gate_zone::Zone;
use gate_zone::keyring::{self, Record, Unpublished};

use crate::hands::{Hands, Loaded};
use crate::protocol::KeysUse;
use crate::refused::Refused;
use crate::secrets::Secrets;
use crate::status;

/// A key file that was found good.
pub(crate) struct Sheet<'a> {
    path: &'a Path,
    file: KeyFile<'a>,
    records: Vec<Record<'a>>,
}

/// The keys that are in force.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    windows: Vec<Duration>,
    told: KeysUse,
}

impl Published {
    /// For whoever asks.
    pub(crate) fn told(&self) -> &KeysUse {
        &self.told
    }
}

impl<'a> Sheet<'a> {
    /// Reads the text of the key file; `None` where the plan has none.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn read(plan: &'a Plan, secrets: &'a Secrets) -> Result<Option<Self>, Refused> {
        let Some((path, text)) = plan.keys.as_deref().zip(secrets.keys.as_deref()) else { return Ok(None) };
        let file = keyfile::parse(text).map_err(|faults| Refused::all(faults.told(&path.display().to_string())))?;
        let record = |line: &keyfile::KeyLine<'a>| Record {
            id: line.id,
            salt: line.salt,
            digest: line.digest,
            expires: line.expires,
            policy: line.policy,
            name: line.name,
        };
        let records = file.lines.iter().map(record).collect();
        let sheet = Self { path, file, records };
        keyring::check(&sheet.records, &sheet.file.policies).map_err(|error| sheet.refused(&error))?;
        Ok(Some(sheet))
    }

    fn refused(&self, error: &Unpublished) -> Refused {
        Refused::of(format!("{}: {error}", self.path.display()))
    }

    fn windows(sheet: Option<&Self>) -> Vec<Duration> {
        sheet.map(|sheet| sheet.file.windows()).unwrap_or_default()
    }

    /// Puts these keys in the place of those before.
    ///
    /// # Errors
    /// There is no room for them; those before stay.
    pub(crate) fn publish(&self, zone: Zone, memory: &SharedWords) -> Result<Published, Refused> {
        let generation = zone.keyring().publish(memory, &self.records, &self.file.policies);
        let generation = generation.map_err(|error| self.refused(&error))?;
        // As whoever changed it may know it.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.to_owned());
        let told = KeysUse {
            file: path.display().to_string(),
            keys: self.file.lines.len() as u64,
            names: self.file.names as u64,
            policies: self.file.policies.len() as u64,
            generation: u64::from(generation),
            time: status::time(),
        };
        let published = Published { windows: self.file.windows(), told };
        let (KeysUse { keys, names, .. }, plural) = (&published.told, |count: u64| if count == 1 { "" } else { "s" });
        log::info!("keys: {keys} key{} of {names} name{} (generation {generation})", plural(*keys), plural(*names));
        Ok(published)
    }
}

/// Gives each window in which the plan or its keys count a region of the zone, beside those `in_service`.
///
/// # Errors
/// There are more than regions, with all of them by name.
pub(crate) fn assign(
    zone: Zone,
    plan: &Plan,
    sheet: Option<&Sheet<'_>>,
    in_service: &[Duration],
) -> Result<(), Refused> {
    let (own, of_keys) = (plan.windows(), Sheet::windows(sheet));
    let wanted = union([&own, &of_keys]);
    few_enough(&own, &of_keys)?;
    zone.assign_windows(&wanted, in_service).map_err(|error| {
        Refused::of(format!("{error}: {} are wanted, {} are in service", listed(&wanted), listed(in_service)))
    })
}

/// Whether there are regions for so many windows at all.
fn few_enough(own: &[Duration], of_keys: &[Duration]) -> Result<(), Refused> {
    let all = union([own, of_keys]);
    if all.len() <= WINDOWS_MAX {
        return Ok(());
    }
    Err(Refused::of(format!(
        "limits and tokens count in {} different window lengths, and there is room for {WINDOWS_MAX}: {} of limit and \
         api_limit, {} of keys",
        all.len(),
        listed(own),
        listed(of_keys)
    )))
}

fn union<const N: usize>(lists: [&[Duration]; N]) -> Vec<Duration> {
    let mut all = lists.concat();
    all.sort_unstable();
    all.dedup();
    all
}

fn listed(windows: &[Duration]) -> String {
    match windows {
        [] => "none".to_owned(),
        _ => windows.iter().map(|window| format!("{}s", window.as_secs())).collect::<Vec<_>>().join(" "),
    }
}

/// Whether the files of secrets that the plan names are good, as far as that can be seen without a gate.
///
/// # Errors
/// Everything that is wrong with them, a line each.
pub fn check(plan: &Plan) -> Result<(), String> {
    let good = || {
        let secrets = Secrets::read(plan)?;
        let sheet = Sheet::read(plan, &secrets)?;
        few_enough(&plan.windows(), &Sheet::windows(sheet.as_ref()))
    };
    good().map_err(|refused: Refused| refused.reasons.join("\n"))
}

/// What to tell an operator whose gate anybody can reach and use.
pub(crate) fn warning(plan: &Plan, mut addresses: impl Iterator<Item = Address>) -> Option<String> {
    let beyond =
        |address: &Address| matches!(address, Address::Tcp(address) if !address.ip().to_canonical().is_loopback());
    let reached = addresses.find(beyond).filter(|_| plan.keys.is_none())?;
    Some(format!(
        "whoever reaches {reached} may use this gate, for no key is asked for: name a key file with --keys FILE \
         (`ollama-gate key new --keys FILE --name NAME` makes it), or listen on this machine only with --bind \
         127.0.0.1:PORT or --bind unix:PATH"
    ))
}

impl Hands {
    /// Windows in which processes may count now.
    pub(crate) fn windows_in_service(&self) -> Vec<Duration> {
        let plans = [&self.current, &self.before].into_iter().flatten().flat_map(|loaded| loaded.plan.windows());
        plans.chain(self.keys.iter().flat_map(|keys| keys.windows.clone())).collect()
    }

    /// Warns of a gate that anybody can reach and use, where that was not so `before`.
    pub(crate) fn warn_of_strangers(&self, before: Option<&Loaded>) {
        let told = |loaded: &Loaded| warning(&loaded.plan, loaded.sockets.addresses());
        let known = before.and_then(told);
        if let Some(warning) = self.current.as_ref().and_then(told).filter(|told| known.as_ref() != Some(told)) {
            log::warn!("{warning}");
        }
    }

    /// Takes keys away that nobody asks for any more: a gate that starts beside this one would take them for ours.
    pub(crate) fn clear_keys(&self) -> Result<(), Unpublished> {
        if self.keys.is_none() && !self.zone.keyring().is_empty() {
            self.zone.keyring().publish(&self.memory, &[], &[])?;
        }
        Ok(())
    }

    /// Reads the key file of the configuration whose keys are in force again, and puts what is in it in force.
    ///
    /// # Errors
    /// Why not; the keys before stay in force.
    pub(crate) fn reread_keys(&mut self) -> Result<Option<&Published>, Refused> {
        let next = self.current.as_ref().map(|current| current.plan.clone());
        let in_force = self.before.as_ref().filter(|_| self.pending.is_some()).map(|before| before.plan.clone());
        let Some(plan) = in_force.or_else(|| next.clone()) else { return Ok(None) };
        let secrets = Secrets::read(&plan)?;
        self.put_in_force(&plan, &secrets)?;
        // What is on its way must not bring back what was taken out of its file meanwhile.
        if self.pending.is_some()
            && let Some(next) = next
            && let Ok(secrets) = Secrets::read(&next)
            && Sheet::read(&next, &secrets).is_ok()
        {
            self.pending = Some(secrets);
        }
        Ok(self.keys.as_ref())
    }

    fn put_in_force(&mut self, plan: &Plan, secrets: &Secrets) -> Result<(), Refused> {
        let sheet = Sheet::read(plan, secrets)?;
        assign(self.zone, plan, sheet.as_ref(), &self.windows_in_service())?;
        self.keys = sheet.map(|sheet| sheet.publish(self.zone, &self.memory)).transpose()?;
        Ok(())
    }

    /// The newest configuration is in service: so are its keys, as they were found good.
    pub(crate) fn commit_keys(&mut self) {
        let Some((secrets, current)) = self.pending.take().zip(self.current.as_ref()) else { return };
        let plan = current.plan.clone();
        if let Err(Refused { reasons, .. }) = self.put_in_force(&plan, &secrets) {
            log_refusal(&reasons);
        }
    }

    /// The newest configuration is not wanted: those before it have never left their place, unless there were none.
    pub(crate) fn forget_keys(&mut self) {
        self.pending = None;
        if self.current.as_ref().is_some_and(|current| current.plan.keys.is_none()) {
            self.keys = None;
        }
    }

    /// No other gate publishes any more. The one before us may have read the file since we did.
    pub(crate) fn refresh_keys(&mut self) {
        let Err(Refused { reasons, .. }) = self.reread_keys().map(|_| ()) else { return self.pending = None };
        log_refusal(&reasons);
        self.commit_keys();
    }
}

/// Tells an operator why keys are not in force.
pub(crate) fn log_refusal(reasons: &[String]) {
    for reason in reasons {
        log::error!("keys refused, those before stay in force: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use gate_config::Settings;

    use super::*;

    fn plan(text: &str) -> Plan {
        Plan::new(&Settings::gather(Some(("gate.toml", text)), [], []).unwrap()).unwrap()
    }

    #[test]
    fn windows_of_plan_and_keys_are_counted_together_and_named() {
        let seconds = |range: std::ops::RangeInclusive<u64>| range.map(Duration::from_secs).collect::<Vec<_>>();
        assert!(few_enough(&seconds(1..=8), &seconds(4..=16)).is_ok());
        let said = few_enough(&seconds(1..=2), &seconds(2..=17)).unwrap_err().reasons.join("\n");
        assert!(said.contains("17 different window lengths, and there is room for 16: 1s 2s of limit"), "{said}");
        assert!(said.ends_with(" 15s 16s 17s of keys"), "{said}");
    }

    #[test]
    fn a_gate_that_anybody_can_reach_is_told_of_both_remedies() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        let of = |plan: &Plan, address| warning(plan, [Address::Unix("/run/x".into()), address].into_iter());
        for (address, warns) in [
            ("127.0.0.1:1", false),
            ("127.9.0.1:1", false),
            ("[::1]:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("192.0.2.1:1", true),
        ] {
            let told = of(&plan(""), tcp(address));
            assert_eq!(told.is_some(), warns, "{address}");
            assert!(told.is_none_or(|told| told.contains("--keys FILE") && told.contains("--bind")), "{address}");
            assert_eq!(of(&plan("keys = '/k'"), tcp(address)), None, "{address}");
        }
    }
}
