//! The URL of the locks, as others may see it.

use percent_encoding::percent_decode_str;

/// A URL without the user, the password and the options, which may have one. `None` for one that is not of the usual form: a part of
/// it may be a password that is not encoded.
pub(crate) fn without_account(url: &str) -> Option<String> {
    if has_no_account(url) {
        return Some(url.split('?').next().unwrap_or_default().to_owned());
    }
    let (place, options) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = place.split_once("://")?;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_usual = !options.contains('@') && !path.contains(['#', ';']) && hosts.split(',').all(is_host);
    is_usual.then(|| format!("{scheme}://{rest}"))
}

/// Whether this is a host, with a port or without. A socket has an empty one.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse::<u16>().is_ok()),
        _ => (host, true),
    };
    port && name.chars().all(|char| char.is_alphanumeric() || "-._:[]%".contains(char))
}

/// Whether the scheme is one without users, whose path may contain anything.
fn has_no_account(url: &str) -> bool {
    ["file:", "memory:"].iter().any(|scheme| url.starts_with(scheme))
}

/// Whether a URL contains a user or a password, or something that could be one.
pub(crate) fn has_credentials(url: &str) -> bool {
    let text = percent_decode_str(url).decode_utf8_lossy();
    !has_no_account(url) && ["@", "username=", "password="].iter().any(|sign| text.contains(sign))
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
            assert_eq!(without_account(url).as_deref(), Some(left));
        }
        for unusual in [
            "redis://joe:hush?@h",
            "redis://:hush?x@h",
            "redis://joe:12345?@h",
            "redis://joe:hush",
            "joe:hush@h",
            "redis:joe:hush@h",
            "redis:/joe:hush@h",
            "redis//joe:hush@h",
            "redis://h#password=hush",
            "redis://h/0#password=hush",
            "redis://h:1;password=hush",
        ] {
            assert_eq!(without_account(unusual), None, "{unusual}");
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
        for (url, left) in [
            ("etcd://10.0.0.1,[::1]:2379?prefix=jobs/", "etcd://10.0.0.1,[::1]:2379"),
            ("file:///home/joe@example.com?ttl=1s", "file:///home/joe@example.com"),
            ("redis+sentinel://a:1,b:2/main", "redis+sentinel://a:1,b:2/main"),
        ] {
            assert_eq!(without_account(url).as_deref(), Some(left));
        }
    }
}
