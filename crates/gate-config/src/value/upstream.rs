//! The backends: where each answers, what it is called, how much it is given.
//!
//! Backends come as one text, in the words of [`super::words`]; the file's tables have been made such words before.
//! Names of models are kept as typed: in which form they are compared is for whoever compares them. The invariant:
//! between one and [`UPSTREAMS_MAX`] backends, no two with one URL or one name.

use super::target::{self, Target};
use super::words::{Draft, MODELS, URL, drafts, worded};
use super::{Fault, Faults, Remedy, number, text};
use crate::complaint::nearest;

/// Each backend has a cell in the shared memory, and old and new ones live side by side during a reload.
pub const UPSTREAMS_MAX: usize = 32;

/// Names stand in log lines and in headings of tables.
const NAME_BYTES_MAX: usize = 64;

/// The list is searched for every request; more models than this are no list but everything.
const MODELS_MAX: usize = 256;

/// What can be said of a backend, in the order in which it is written.
pub(crate) const FIELDS: [&str; 6] = [URL, "dns", "name", "weight", "slots", MODELS];

/// The share of a backend for which none was written.
const WEIGHT: u32 = 1;

/// Stands for the value of the key `slots` until that is known.
const AS_THE_KEY: u16 = 0;

/// One backend of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// What logs call it: letters, digits, `.`, `_` and `-`; `ollama-2` for the second where none was written.
    pub name: String,
    /// Where it answers.
    pub target: Target,
    /// Its share of the load beside the others', for each slot: 1 to 100.
    pub weight: u32,
    /// How many requests it is given at once: 1 to 256.
    pub slots: u16,
    /// The models that it may be asked for, as typed, none twice; empty is all that it has.
    pub models: Vec<String>,
}

impl Upstream {
    /// What identifies it, whatever its name: `http://HOST:PORT/PREFIX`, `unix:PATH` or `dns:NAME:PORT`.
    pub fn url(&self) -> String {
        self.target.url()
    }

    /// Takes the key's number of slots where the backend has none of its own.
    pub(crate) fn default_slots(&mut self, slots: u16) {
        if self.slots == AS_THE_KEY {
            self.slots = slots;
        }
    }

    /// The words from which it is read, less those that go without saying.
    fn words(&self, unsaid: &Unsaid) -> String {
        let mut words = vec![self.target.word()];
        if unsaid.name.as_ref() != Some(&self.name) {
            words.push(worded("name", &self.name));
        }
        if self.weight != WEIGHT {
            words.push(worded("weight", &self.weight.to_string()));
        }
        if unsaid.slots != Some(self.slots) {
            words.push(worded("slots", &self.slots.to_string()));
        }
        if !self.models.is_empty() {
            words.push(worded(MODELS, &self.models.join(",")));
        }
        words.join(" ")
    }
}

/// What a backend has without having it written.
#[derive(Default)]
struct Unsaid {
    name: Option<String>,
    slots: Option<u16>,
}

pub(crate) fn upstreams(text: &str) -> Result<Vec<Upstream>, Faults> {
    let drafts = drafts(text)?;
    if drafts.is_empty() {
        return Err("write at least one backend, such as http://127.0.0.1:11434".to_owned().into());
    }
    if drafts.len() > UPSTREAMS_MAX {
        return Err(format!("write at most {UPSTREAMS_MAX} backends").into());
    }
    let mut faults = Vec::new();
    let read: Vec<_> = drafts.iter().enumerate().map(|(row, draft)| Read::of(row + 1, draft, &mut faults)).collect();
    for (row, later) in read.iter().enumerate() {
        for (earlier, before) in read[..row].iter().enumerate() {
            faults.extend(later.clash(before, row + 1, earlier + 1));
        }
    }
    let whole: Option<Vec<Upstream>> = read.into_iter().map(Read::whole).collect();
    whole.filter(|_| faults.is_empty()).ok_or(Faults(faults))
}

/// The text from which these backends are read where the key `slots` has this value.
pub(crate) fn upstreams_text(upstreams: &[Upstream], slots: u16) -> String {
    let unsaid = |row| Unsaid { name: Some(name_at(row)), slots: Some(slots) };
    let words = upstreams.iter().zip(1..).map(|(upstream, row)| upstream.words(&unsaid(row)));
    words.collect::<Vec<_>>().join(";")
}

/// Two lists for whoever compares them: what differs in full, what does not as a number.
pub(crate) fn difference(old: &[Upstream], new: &[Upstream]) -> (String, String) {
    // Lists that differ in their order only are best told in full.
    let moved = old.len() == new.len() && old.iter().all(|upstream| new.contains(upstream));
    let told = |list: &[Upstream], other: &[Upstream]| {
        let differs = |upstream: &&Upstream| moved || !other.contains(upstream);
        let mut texts: Vec<_> = list.iter().filter(differs).map(|one| one.words(&Unsaid::default())).collect();
        match list.len() - texts.len() {
            0 => {}
            1 => texts.push("1 as before".to_owned()),
            same => texts.push(format!("{same} as before")),
        }
        texts.join("; ")
    };
    (told(old, new), told(new, old))
}

/// What a field that is none is answered with.
pub(crate) fn unknown_field(typed: &str) -> Remedy {
    match nearest(typed, FIELDS.into_iter()) {
        Some(field) => format!("a backend has no `{typed}`; did you mean `{field}`?"),
        None => format!("a backend has no `{typed}`; it has {}", FIELDS.map(|field| format!("`{field}`")).join(", ")),
    }
}

/// What could be read of one backend.
struct Read {
    target: Option<Target>,
    name: Option<String>,
    weight: Option<u32>,
    slots: Option<u16>,
    models: Option<Vec<String>>,
}

impl Read {
    fn of(item: usize, draft: &Draft, faults: &mut Vec<Fault>) -> Self {
        let fields = Fields { item, draft };
        fields.check(faults);
        let url = fields.read(URL, target::url, faults);
        let dns = fields.read("dns", target::dns, faults);
        Self {
            target: url.or(dns),
            name: fields.read_or("name", name_at(item), name, faults),
            weight: fields.read_or("weight", WEIGHT, |text| number::whole(text, 1..=number::WEIGHT_MAX), faults),
            slots: fields.read_or("slots", AS_THE_KEY, |text| number::whole(text, 1..=number::SLOTS_MAX), faults),
            models: fields.read_or(MODELS, Vec::new(), models, faults),
        }
    }

    /// What this backend cannot share with one before it.
    fn clash(&self, before: &Self, item: usize, earlier: usize) -> impl Iterator<Item = Fault> {
        let url = self.target.as_ref().filter(|target| before.target.as_ref() == Some(target)).map(Target::url);
        let name = self.name.as_ref().filter(|name| before.name.as_ref() == Some(name)).cloned();
        let url = url.map(|url| (URL, url, "write each backend once; more weight or slots give it a larger share"));
        let name = name.map(|name| ("name", name, "give each backend a name of its own"));
        url.into_iter().chain(name).map(move |(field, value, remedy)| {
            Fault::at(item, field, &value, format!("upstream[{earlier}] has it already: {remedy}"))
        })
    }

    fn whole(self) -> Option<Upstream> {
        let Self { target, name, weight, slots, models } = self;
        Some(Upstream { name: name?, target: target?, weight: weight?, slots: slots?, models: models? })
    }
}

/// The words of one backend, for looking them up.
struct Fields<'a> {
    item: usize,
    draft: &'a Draft,
}

impl Fields<'_> {
    /// What is wrong whatever the values are: words that are no field, fields written twice, none that says where.
    fn check(&self, faults: &mut Vec<Fault>) {
        let before = faults.len();
        for (place, word) in self.draft.iter().enumerate() {
            let Some(key) = &word.key else {
                let remedy = "write the URL first, then fields such as `slots=4`, then `;` before the next backend";
                faults.push(Fault::at(self.item, "", &word.text, remedy.to_owned()));
                continue;
            };
            let mut fault = |remedy| faults.push(Fault::at(self.item, key, &word.text, remedy));
            if !FIELDS.contains(&key.as_str()) {
                fault(unknown_field(key));
            } else if self.draft[..place].iter().any(|earlier| earlier.key == word.key) {
                fault(format!("write `{key}` only once"));
            }
        }
        let is_where = |field: &str| self.typed(field).is_some();
        match (is_where(URL), is_where("dns")) {
            (true, true) => {
                let remedy = "the backend has a URL already: write one of both".to_owned();
                faults.push(Fault::at(self.item, "dns", self.typed("dns").unwrap_or_default(), remedy));
            }
            (false, false) if faults.len() == before => {
                faults.push(Fault::at(self.item, "", "", "the backend's `url` or `dns` is missing".to_owned()));
            }
            _ => {}
        }
    }

    fn typed(&self, field: &str) -> Option<&str> {
        self.draft.iter().find(|word| word.key.as_deref() == Some(field)).map(|word| word.text.as_str())
    }

    fn read<T>(&self, field: &str, read: impl Fn(&str) -> Result<T, Remedy>, faults: &mut Vec<Fault>) -> Option<T> {
        let text = self.typed(field)?;
        read(text).map_err(|remedy| faults.push(Fault::at(self.item, field, text, remedy))).ok()
    }

    fn read_or<T>(
        &self,
        field: &str,
        default: T,
        read: impl Fn(&str) -> Result<T, Remedy>,
        faults: &mut Vec<Fault>,
    ) -> Option<T> {
        if self.typed(field).is_none() { Some(default) } else { self.read(field, read, faults) }
    }
}

/// The name of a backend that was given none.
fn name_at(item: usize) -> String {
    format!("ollama-{item}")
}

fn name(text: &str) -> Result<String, Remedy> {
    let text = text.trim();
    let spelled = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let works = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(spelled);
    works
        .then(|| text.to_owned())
        .ok_or_else(|| format!("write a name of 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_` or `-`"))
}

fn models(text: &str) -> Result<Vec<String>, Remedy> {
    let mut models: Vec<String> = Vec::new();
    for item in super::items(text) {
        if item.contains("://") {
            return Err(format!("{item} is no model: write `;` in front of the next backend"));
        }
        let model = text::model(item)?.ok_or_else(|| "write models as `a,b`, without blanks".to_owned())?;
        if !models.contains(&model) {
            models.push(model);
        }
        if models.len() > MODELS_MAX {
            return Err(format!("write at most {MODELS_MAX} models"));
        }
    }
    Ok(models)
}

#[cfg(test)]
mod tests;
