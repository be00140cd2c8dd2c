//! From text to values and back: one module for each kind, each with its bounds.
//!
//! A reader takes the text of one key and gives the value or the remedy, a sentence that says what would be right. A
//! shower gives the text that the reader reads back. Readers know nothing of keys, layers or other values.

pub(crate) mod address;
pub(crate) mod choice;
pub(crate) mod cluster;
pub(crate) mod number;
pub(crate) mod origins;
pub(crate) mod proxies;
pub(crate) mod queue;
pub(crate) mod rates;
pub(crate) mod target;
pub(crate) mod text;
pub(crate) mod upstream;
pub(crate) mod words;

/// What would be right, as a sentence without its full stop.
pub(crate) type Remedy = String;

/// What is wrong with a value that consists of items with fields.
pub(crate) struct Fault {
    /// The item, counted from 1, and the field, where it has a name; `None` for the value as a whole.
    pub(crate) place: Option<(usize, String)>,
    /// What was typed there.
    pub(crate) value: String,
    pub(crate) remedy: Remedy,
}

impl Fault {
    fn at(item: usize, field: &str, value: &str, remedy: Remedy) -> Self {
        Self { place: Some((item, field.to_owned())), value: value.to_owned(), remedy }
    }
}

/// Everything that is wrong with one value.
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl From<Remedy> for Faults {
    fn from(remedy: Remedy) -> Self {
        Self(vec![Fault { place: None, value: String::new(), remedy }])
    }
}

/// The items of a comma-separated list; blank text is the empty list.
pub(crate) fn items(text: &str) -> impl Iterator<Item = &str> {
    let wanted = if text.trim().is_empty() { 0 } else { usize::MAX };
    text.split(',').map(str::trim).take(wanted)
}

/// Items as one text, as [`items`] takes them apart.
pub(crate) fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
