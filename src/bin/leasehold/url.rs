//! The URL of the locks, as others may see it.

use percent_encoding::percent_decode_str;

/// A URL without the user, the password and the options, which may have one.
pub(crate) fn without_account(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    }
}

/// Whether a URL contains a user or a password, or something that could be one.
pub(crate) fn has_credentials(url: &str) -> bool {
    // Their path may contain anything, and they have no users.
    let is_local = ["file:", "memory:"].iter().any(|scheme| url.starts_with(scheme));
    let text = percent_decode_str(url).decode_utf8_lossy();
    !is_local && ["@", "username=", "password="].iter().any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_and_left_out() {
        for (url, left) in [
            ("redis://:hush@host", "redis://host"),
            ("redis://joe@host", "redis://host"),
            ("rediss://joe:hu/sh@host/3?ttl=10s", "rediss://host/3"),
            ("redis+sentinel://host/m?sentinel_password=hush", "redis+sentinel://host/m"),
            ("redis+sentinel://host/m?sentinel_p%61ssword=hush", "redis+sentinel://host/m"),
            ("redis+sentinel://host/m?sentinel_username=joe", "redis+sentinel://host/m"),
            ("redis+unix://joe:hush@/run/redis", "redis+unix:///run/redis"),
        ] {
            assert!(has_credentials(url), "{url}");
            assert_eq!(without_account(url), left);
        }
        for url in [
            "etcd://10.0.0.1,10.0.0.2?prefix=jobs/&ttl=10s",
            "redis://host?password_file=/run/secrets/redis",
            "file:///home/joe@example.com",
            "memory://password=",
            "",
        ] {
            assert!(!has_credentials(url), "{url}");
        }
    }
}
