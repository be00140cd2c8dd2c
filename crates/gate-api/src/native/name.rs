//! Model names: which model a client names, and whether Ollama would run it itself.
//!
//! `[host/][namespace/]model[:tag]`. It knows no inventory: whether the model exists is not asked here.
//!
//! Invariant: a name that Ollama would send to its cloud is never read as a local one.

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameFault {
    /// Empty or blank.
    Missing,
    /// Ends both in `:local` and in `:cloud`.
    BothSources,
    /// Ollama would run it elsewhere.
    Cloud,
    /// Not a name.
    Invalid,
}

/// Where a name's suffix says the model runs.
#[derive(PartialEq)]
enum Source {
    Unsaid,
    Local,
    Cloud,
}

/// Bytes of a host, and of each other part, that Ollama allows.
const HOST_MAX: usize = 350;
const PART_MAX: usize = 80;

/// The name as Ollama reads it: trimmed, without `:local`.
pub(super) fn read(sent: &str) -> Result<&str, NameFault> {
    let sent = sent.trim();
    if sent.is_empty() {
        return Err(NameFault::Missing);
    }
    let (base, source) = source(sent);
    if source != Source::Unsaid && self::source(base).1 != Source::Unsaid {
        return Err(NameFault::BothSources);
    }
    match source {
        Source::Cloud => Err(NameFault::Cloud),
        _ if is_valid(base) => Ok(base),
        _ => Err(NameFault::Invalid),
    }
}

/// The form in which Ollama lists a model, in lower case: the default host and namespace left out, the tag given.
/// Two valid names of one model have the same form.
pub fn listed_as(name: &str) -> String {
    let (name, tag) = listed_parts(name);
    let mut listed = String::with_capacity(name.len() + tag.len());
    listed.push_str(name);
    listed.push_str(tag);
    listed.make_ascii_lowercase();
    listed
}

/// What [`listed_as`] puts together, before letters are lower case.
pub(super) fn listed_parts(name: &str) -> (&str, &'static str) {
    let has_tag = name.bytes().rfind(|byte| matches!(byte, b':' | b'/')) == Some(b':');
    let scheme = name.as_bytes().windows(3).rposition(|part| part == b"://");
    let name = scheme.map_or(name, |at| &name[at + 3..]);
    let name = without_prefix(name, "registry.ollama.ai/");
    (without_prefix(name, "library/"), if has_tag { "" } else { ":latest" })
}

fn without_prefix<'a>(name: &'a str, prefix: &str) -> &'a str {
    match name.split_at_checked(prefix.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(prefix) => rest,
        _ => name,
    }
}

/// The name without its source suffix, and that suffix. The base of a `-cloud` tag matters only for further suffixes.
fn source(name: &str) -> (&str, Source) {
    let Some((base, suffix)) = name.rsplit_once(':') else { return (name, Source::Unsaid) };
    let suffix = suffix.trim();
    if suffix.eq_ignore_ascii_case("local") {
        return (base, Source::Local);
    }
    if suffix.eq_ignore_ascii_case("cloud") {
        return (base, Source::Cloud);
    }
    let tail = suffix.len().checked_sub("-cloud".len()).and_then(|at| suffix.get(at..));
    match tail {
        Some(tail) if tail.eq_ignore_ascii_case("-cloud") && !suffix.contains('/') => {
            // Cut from the name itself: blanks before the suffix are part of it for Ollama as well.
            let end = name.trim_end().len() - tail.len();
            (&name[..end], Source::Cloud)
        }
        _ => (name, Source::Unsaid),
    }
}

fn is_valid(name: &str) -> bool {
    let (name, tag) = match (name.rfind(':'), name.rfind('/')) {
        (Some(colon), slash) if Some(colon) > slash => (&name[..colon], &name[colon + 1..]),
        _ => (name, "latest"),
    };
    let mut parts = name.rsplitn(3, '/');
    let (model, namespace, host) = (parts.next(), parts.next(), parts.next());
    let host = host.map(|host| host.split_once("://").map_or(host, |(_, host)| host));
    is_part(tag, PART_MAX, ".")
        && model.is_some_and(|model| is_part(model, PART_MAX, "."))
        && namespace.is_none_or(|namespace| is_part(namespace, PART_MAX, ""))
        && host.is_none_or(|host| is_part(host, HOST_MAX, ".:"))
}

/// Letters, digits and `_`, behind the first also `-` and what `also` holds.
fn is_part(part: &str, max: usize, also: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = part.bytes();
    part.len() <= max
        && bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || byte == b'-' || also.as_bytes().contains(&byte))
}
