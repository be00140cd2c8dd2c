//! The pages under `/docs`: Swagger UI over this gate's own `/openapi.json`, all of it inside the binary.
//!
//! It does no content negotiation: the assets say how they are encoded, and the sender decides what to do with a
//! client that cannot read that. Swagger UI itself is Apache-2.0; its licence and notice lie beside the assets.
//!
//! Invariant: a page loads nothing from another host and runs no script that is not one of these files.

/// The Content-Security-Policy that all pages are to be sent with. Swagger UI draws its icons from `data:` addresses;
/// its requests go to this gate alone.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page under `/docs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The page itself.
    Index,
    /// Swagger UI's program.
    Bundle,
    /// Swagger UI's style sheet.
    Style,
    /// The few lines that start Swagger UI.
    Initializer,
}

/// What is sent for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// Its Content-Type.
    pub content_type: &'static str,
    /// How `bytes` are encoded.
    pub encoding: Encoding,
    /// The content.
    pub bytes: &'static [u8],
}

/// An asset's Content-Encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// None.
    Identity,
    /// gzip.
    Gzip,
}

impl Encoding {
    /// The value for a Content-Encoding header, if one is needed.
    pub fn content_encoding(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
        }
    }
}

impl Page {
    /// Every page.
    pub const ALL: [Self; 4] = [Self::Index, Self::Bundle, Self::Style, Self::Initializer];

    /// The page at a decoded path.
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|page| page.path() == path)
    }

    /// Where the page is.
    pub fn path(self) -> &'static str {
        match self {
            Self::Index => "/docs",
            Self::Bundle => "/docs/swagger-ui-bundle.js",
            Self::Style => "/docs/swagger-ui.css",
            Self::Initializer => "/docs/swagger-initializer.js",
        }
    }

    /// What is sent for it.
    pub fn asset(&self) -> Asset {
        let (content_type, encoding, bytes): (_, _, &[u8]) = match self {
            Self::Index => (HTML, Encoding::Identity, include_bytes!("../assets/swagger-ui/index.html")),
            Self::Bundle => (SCRIPT, Encoding::Gzip, include_bytes!("../assets/swagger-ui/swagger-ui-bundle.js.gz")),
            Self::Style => (STYLE, Encoding::Gzip, include_bytes!("../assets/swagger-ui/swagger-ui.css.gz")),
            Self::Initializer => {
                (SCRIPT, Encoding::Identity, include_bytes!("../assets/swagger-ui/swagger-initializer.js"))
            }
        };
        Asset { content_type, encoding, bytes }
    }
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_found_at_its_path_and_nowhere_else() {
        for page in Page::ALL {
            assert_eq!(Page::from_path(page.path()), Some(page));
        }
        for path in ["", "/", "/docs/", "/DOCS", "/docs/index.html", "/docs/../docs", "/redoc"] {
            assert_eq!(Page::from_path(path), None, "{path}");
        }
    }

    #[test]
    fn compressed_assets_are_gzip_without_a_timestamp_and_the_rest_is_text() {
        for page in Page::ALL {
            let asset = page.asset();
            match asset.encoding {
                Encoding::Gzip => assert_eq!(asset.bytes[..8], [0x1F, 0x8B, 8, 0, 0, 0, 0, 0], "{page:?}"),
                Encoding::Identity => assert!(std::str::from_utf8(asset.bytes).is_ok(), "{page:?}"),
            }
        }
    }

    #[test]
    fn the_index_loads_exactly_the_other_pages_and_has_no_inline_script() {
        let index = std::str::from_utf8(Page::Index.asset().bytes).unwrap();
        let loaded: Vec<_> = index
            .split(['"', '\''])
            .filter(|part| part.starts_with("docs/"))
            .filter_map(|part| Page::from_path(&format!("/{part}")))
            .collect();
        assert_eq!(loaded, [Page::Style, Page::Bundle, Page::Initializer]);
        assert_eq!(index.matches("<script").count(), index.matches("></script>").count());
        assert!(!index.contains("http") && !index.contains("onload"));
    }
}
