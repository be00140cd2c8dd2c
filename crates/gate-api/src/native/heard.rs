//! What a model would read of a request, counted while the request is read.
//!
//! Counts serve estimates and caps. Invariant: they depend on what texts mean, not on how JSON spelled them, and nothing
//! that a model reads as text or as a picture is left out because it stands in another form.

use super::opening::Opening;
use super::{fields, text, walk};

/// Follows a body's texts as they are read.
#[derive(Default)]
pub(crate) struct Heard {
    /// How the conversation begins.
    pub(crate) opening: Opening,
    /// Bytes of text.
    pub(crate) text_bytes: u64,
    /// Pictures and sounds.
    pub(crate) images: u32,
    /// Messages, or items of an input.
    pub(crate) messages: u32,
    /// What is wrong with a message, and is said only once all types are right.
    pub(crate) fault: Option<String>,
}

impl Heard {
    /// A message whose content is one string, or is missing.
    pub(crate) fn message(&mut self, role: Option<&str>, content: Option<&str>) {
        self.opening.hear(role, content);
        self.text(content);
    }

    /// A message in parts: those that are text, in their order.
    pub(crate) fn parts(&mut self, role: Option<&str>, texts: &[&str]) {
        self.opening.hear_all(role, texts.iter().copied());
        for text in texts {
            self.text(Some(text));
        }
    }

    /// The texts of a call without messages.
    pub(crate) fn prompt(&mut self, system: Option<&str>, prompt: Option<&str>) {
        self.opening.hear_prompt(system, prompt);
        self.text(system);
        self.text(prompt);
    }

    /// A JSON string that a model reads; other values do not count.
    pub(crate) fn text(&mut self, raw: Option<&str>) {
        self.text_bytes += raw.map_or(0, text::meaning_len);
    }

    /// A JSON value that a model reads as it is written, such as a tool's schema.
    pub(crate) fn written(&mut self, raw: Option<&str>) {
        self.text_bytes += raw.map_or(0, |raw| raw.len() as u64);
    }

    /// A list of pictures.
    pub(crate) fn images(&mut self, raw: &str) {
        let count = walk::items(raw).count();
        self.images = self.images.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// One picture or sound.
    pub(crate) fn image(&mut self) {
        self.images = self.images.saturating_add(1);
    }

    /// What is wrong with a message; the first of such faults stays.
    pub(crate) fn fault(&mut self, why: impl Into<String>) {
        self.fault.get_or_insert_with(|| why.into());
    }

    /// The members of `names` that `object` has, as [`fields::pick`] finds them; none where it is ambiguous, which is a fault.
    pub(crate) fn pick<'a, const N: usize>(
        &mut self,
        object: &'a str,
        names: [&str; N],
        keys: fields::Keys,
    ) -> [Option<&'a str>; N] {
        fields::pick(object, names, keys).unwrap_or_else(|why| {
            self.fault(why);
            [None; N]
        })
    }
}
