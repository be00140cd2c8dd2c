//! Origins of web pages that may call the gate.
//!
//! They are kept as typed: which origins a pattern admits is for whoever compares them. The invariant: none stands in
//! the list twice, and none is without what Ollama's own list wants of one: a scheme, or a `*`.

use super::{Remedy, items, joined};

/// The list is walked for each request of a browser.
const ORIGINS_MAX: usize = 64;

/// A scheme, a host name as long as one may be, and a port.
const ORIGIN_BYTES_MAX: usize = 300;

pub(crate) fn origins(text: &str) -> Result<Vec<String>, Remedy> {
    let mut origins: Vec<String> = Vec::new();
    for item in items(text) {
        let works = item.len() <= ORIGIN_BYTES_MAX
            && (item.contains('*') || item.contains("://"))
            && item.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        if !works {
            return Err("write origins such as https://app.example.com or https://*.example.com, or `*`".to_owned());
        }
        if !origins.iter().any(|known| known == item) {
            origins.push(item.to_owned());
        }
    }
    if origins.len() > ORIGINS_MAX {
        return Err(format!("write at most {ORIGINS_MAX} origins; a `*` stands for many"));
    }
    Ok(origins)
}

pub(crate) fn origins_text(origins: &[String]) -> String {
    joined(origins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_a_scheme_or_a_star() {
        for (text, shown) in [
            ("", ""),
            ("*", "*"),
            (
                " https://a.example , https://*.example.com:8443,https://a.example",
                "https://a.example,https://*.example.com:8443",
            ),
        ] {
            assert_eq!(origins_text(&origins(text).unwrap()), shown, "{text}");
        }
        for text in ["a.example", "https://a b", "https://a,", "https://ä", &"https://a,".repeat(3)] {
            assert!(origins(text).unwrap_err().contains("such as https://"), "{text}");
        }
        let many = (0..65).map(|number| format!("http://{number}")).collect::<Vec<_>>().join(",");
        assert!(origins(&many).unwrap_err().contains("at most 64"));
    }
}
