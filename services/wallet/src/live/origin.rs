//! Which web pages may open a stream. A browser says by `Origin` whose page asks; others say nothing.

use api::Code;
use axum::http::{HeaderMap, header};
use service::ApiError;

/// Origins that are trusted besides the service's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// From a list such as `https://shop.example,https://app.example:8443`.
    #[must_use]
    pub fn parse(list: &str) -> Self {
        let origins = list.split(',').map(|origin| origin.trim().trim_end_matches('/').to_ascii_lowercase());
        Self(origins.filter(|origin| !origin.is_empty()).collect())
    }

    /// Refuses a page of a site that is neither trusted nor this one, by `Host`.
    ///
    /// # Errors
    /// 403 `origin_not_allowed`.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let is_own = origin
            .split_once("://")
            .is_some_and(|(scheme, at)| ["http", "https"].contains(&scheme) && at.eq_ignore_ascii_case(host));
        if origins.next().is_none() && (is_own || self.0.contains(&origin)) {
            return Ok(());
        }
        Err(ApiError::new(Code::OriginNotAllowed, "Pages of this origin may not open a stream."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_and_trusted_pages_are_admitted() {
        let trusted = Origins::parse(" https://Shop.example/ ,https://app.example:8443,");
        let admits = |origins: &Origins, values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "wallet.example:8080".parse().expect("a value"));
            for value in values {
                headers.append(header::ORIGIN, value.parse().expect("a value"));
            }
            origins.admit(&headers).is_ok()
        };
        let none = Origins::default();
        assert!(admits(&none, &[]));
        assert!(admits(&none, &["http://wallet.example:8080"]));
        assert!(admits(&trusted, &["https://shop.example"]));
        assert!(admits(&trusted, &["https://app.example:8443"]));
        for bad in ["https://shop.example", "null", "", "http://wallet.example", "ftp://wallet.example:8080"]
        {
            assert!(!admits(&none, &[bad]), "{bad}");
        }
        assert!(!admits(&trusted, &["https://app.example"]));
        assert!(!admits(&trusted, &["https://shop.example.evil.example"]));
        assert!(!admits(&trusted, &["https://shop.example", "https://evil.example"]));
    }
}
