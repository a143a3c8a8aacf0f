//! The one table of options: their names, values, bounds and backends, and where each is in [`Settings`].
//!
//! The parser of URLs, the validation and the list of options in errors work on this table; the fields of a `Config`, and so the
//! variables of the environment, have the same names. A test compares the table with all of them, with the builder and with
//! `docs/configuration.md`.

use std::path::PathBuf;
use std::time::Duration;

use super::{BackendKind, MAX_HANDOVERS, Settings, duration};
use crate::credentials::Secret;
use crate::display::has_control;
use crate::error::{LockError, Result};

use BackendKind::{Etcd, File, Memory, Redis};
use Place::{Address, Query};

/// The maximum TTL.
pub(super) const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The maximum length of prefixes and names, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// An option.
pub(crate) struct Opt {
    /// The name in a URL, in a `Config`, in the environment and in errors.
    pub(crate) name: &'static str,
    /// Where a URL has it.
    pub(crate) place: Place,
    /// The backends that it is for.
    pub(crate) backends: &'static [BackendKind],
    /// What it takes, and the bounds.
    pub(crate) value: Value,
}

/// Where a URL has an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before the query: a part of the address.
    Address,
    /// In the query.
    Query,
}

/// The field of an option in [`Settings`].
pub(crate) struct Field<T: 'static> {
    get: fn(&Settings) -> &T,
    get_mut: fn(&mut Settings) -> &mut T,
}

/// What an option takes.
pub(crate) enum Value {
    /// `true` or `false`.
    Flag(Field<bool>),
    /// A number.
    Number(Field<u32>),
    /// A number of handovers.
    Handovers(Field<u16>),
    /// The number of a database.
    Database(Field<Option<u32>>),
    /// The permissions of a directory.
    Permissions(Field<Option<u32>>),
    /// A duration, with a check.
    Duration(Field<Duration>, Bound),
    /// A duration longer than zero, or none.
    SomeDuration(Field<Option<Duration>>),
    /// A text of at most [`MAX_TEXT_BYTES`] without control characters.
    Text(Field<Option<String>>, Empty),
    /// Any text, which is part of the address.
    Word(Field<Option<String>>),
    /// A text that is not displayed.
    Secret(Field<Option<Secret>>),
    /// The path of a file.
    File(Field<Option<PathBuf>>),
    /// The path of a file, which is not displayed.
    HiddenFile(Field<Option<PathBuf>>),
}

impl Value {
    /// Returns whether errors may quote the value.
    pub(super) fn is_displayed(&self) -> bool {
        !matches!(self, Self::Secret(_) | Self::HiddenFile(_))
    }
}

/// The bounds of a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Any, also zero.
    None,
    /// Longer than zero.
    AboveZero,
    /// Longer than zero and at most [`MAX_TTL`]. The backend has a minimum.
    Ttl,
}

/// Whether a text may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Empty {
    Allowed,
    Refused,
}

macro_rules! field {
    ($($field:ident).+) => {
        Field { get: |settings| &settings.$($field).+, get_mut: |settings| &mut settings.$($field).+ }
    };
}

const ALL: &[BackendKind] = &[Memory, Etcd, Redis, File];
const SERVERS: &[BackendKind] = &[Etcd, Redis];

/// All options except the backend, its endpoints, and whether to use TLS, which the scheme and the hosts of a URL contain.
pub(crate) const OPTIONS: &[Opt] = &[
    Opt { name: "store", place: Address, backends: &[Memory], value: Value::Word(field!(store)) },
    Opt { name: "directory", place: Address, backends: &[File], value: Value::File(field!(directory)) },
    Opt { name: "mode", place: Query, backends: &[File], value: Value::Permissions(field!(mode)) },
    Opt { name: "cluster", place: Address, backends: &[Redis], value: Value::Flag(field!(cluster)) },
    Opt { name: "master", place: Address, backends: &[Redis], value: Value::Text(field!(master), Empty::Refused) },
    Opt { name: "socket", place: Address, backends: &[Redis], value: Value::File(field!(unix_path)) },
    Opt { name: "database", place: Address, backends: &[Redis], value: Value::Database(field!(database)) },
    Opt { name: "username", place: Address, backends: SERVERS, value: Value::Word(field!(username)) },
    Opt { name: "password", place: Address, backends: SERVERS, value: Value::Secret(field!(password)) },
    Opt { name: "password_file", place: Query, backends: SERVERS, value: Value::HiddenFile(field!(password_file)) },
    Opt {
        name: "sentinel_username",
        place: Query,
        backends: &[Redis],
        value: Value::Text(field!(sentinel_username), Empty::Refused),
    },
    Opt {
        name: "sentinel_password",
        place: Query,
        backends: &[Redis],
        value: Value::Secret(field!(sentinel_password)),
    },
    Opt { name: "ca", place: Query, backends: SERVERS, value: Value::File(field!(ca)) },
    Opt { name: "cert", place: Query, backends: SERVERS, value: Value::File(field!(cert)) },
    Opt { name: "key", place: Query, backends: SERVERS, value: Value::File(field!(key)) },
    Opt { name: "prefix", place: Query, backends: ALL, value: Value::Text(field!(prefix), Empty::Allowed) },
    Opt { name: "name", place: Query, backends: ALL, value: Value::Text(field!(name), Empty::Refused) },
    Opt { name: "ttl", place: Query, backends: ALL, value: Value::Duration(field!(ttl), Bound::Ttl) },
    Opt { name: "timeout", place: Query, backends: ALL, value: Value::Duration(field!(timeout), Bound::AboveZero) },
    Opt {
        name: "retry_interval",
        place: Query,
        backends: ALL,
        value: Value::Duration(field!(retry_interval), Bound::AboveZero),
    },
    Opt { name: "max_retries", place: Query, backends: ALL, value: Value::Number(field!(max_retries)) },
    Opt { name: "auto_renew", place: Query, backends: ALL, value: Value::Flag(field!(auto_renew)) },
    Opt { name: "max_hold", place: Query, backends: ALL, value: Value::SomeDuration(field!(max_hold)) },
    Opt { name: "reentrant", place: Query, backends: ALL, value: Value::Flag(field!(reentrant)) },
    Opt {
        name: "hand_over_time",
        place: Query,
        backends: ALL,
        value: Value::Duration(field!(handover.max_time), Bound::None),
    },
    Opt { name: "hand_over_times", place: Query, backends: ALL, value: Value::Handovers(field!(handover.max_count)) },
    Opt { name: "drop_wait", place: Query, backends: ALL, value: Value::Duration(field!(drop_wait), Bound::None) },
    Opt { name: "min_replicas", place: Query, backends: &[Redis], value: Value::Number(field!(min_replicas)) },
    Opt { name: "signal_lists", place: Query, backends: &[Redis], value: Value::Flag(field!(signal_lists)) },
];

/// Returns the option that a URL's query names.
pub(super) fn in_query(name: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|option| option.place == Query && option.name == name)
}

/// Returns the names of all options of a URL's query, for an error.
pub(super) fn names_in_query() -> String {
    let names: Vec<_> = OPTIONS.iter().filter(|option| option.place == Query).map(|option| option.name).collect();
    names.join(", ")
}

impl Opt {
    /// Sets the option from a text; `None` if the text is not what the option takes.
    pub(crate) fn set(&self, settings: &mut Settings, text: &str) -> Option<()> {
        match &self.value {
            Value::Flag(field) => *field.of_mut(settings) = text.parse().ok()?,
            Value::Number(field) => *field.of_mut(settings) = number(text)?,
            Value::Handovers(field) => *field.of_mut(settings) = number(text)?.try_into().ok()?,
            Value::Database(field) => *field.of_mut(settings) = Some(number(text)?),
            Value::Permissions(field) => *field.of_mut(settings) = Some(permissions(text)?),
            Value::Duration(field, _) => *field.of_mut(settings) = duration::parse(text)?,
            Value::SomeDuration(field) => *field.of_mut(settings) = Some(duration::parse(text)?),
            Value::Text(field, _) | Value::Word(field) => *field.of_mut(settings) = Some(text.into()),
            Value::Secret(field) => *field.of_mut(settings) = Some(text.into()),
            Value::File(_) | Value::HiddenFile(_) if text.contains('\0') => return None,
            Value::File(field) | Value::HiddenFile(field) => *field.of_mut(settings) = Some(text.into()),
        }
        Some(())
    }

    /// Returns what the option takes, for an error.
    pub(crate) fn takes(&self) -> &'static str {
        match &self.value {
            Value::Flag(_) => "true or false",
            Value::Number(_) => "a number up to 4294967295",
            Value::Handovers(_) => "a number up to 1023",
            Value::Database(_) => "a number",
            Value::Permissions(_) => PERMISSIONS,
            Value::Duration(..) | Value::SomeDuration(_) => duration::EXPECTED,
            Value::Text(..) | Value::Word(_) | Value::Secret(_) => "a text",
            Value::File(_) | Value::HiddenFile(_) => "a file's path",
        }
    }

    /// Checks the bounds of the value.
    pub(super) fn check(&self, settings: &Settings) -> Result<()> {
        let name = self.name;
        let wrong = |reason: &dyn std::fmt::Display| Err(LockError::config(format!("{name}: {reason}")));
        match &self.value {
            Value::Handovers(field) if *field.of(settings) > MAX_HANDOVERS => {
                wrong(&format_args!("at most {MAX_HANDOVERS} handovers in a row"))
            }
            Value::Permissions(field) if field.of(settings).is_some_and(|mode| !is_permitted(mode)) => {
                wrong(&format_args!("expects {PERMISSIONS}"))
            }
            Value::Duration(field, bound) => bound.check(name, *field.of(settings)),
            Value::SomeDuration(field) => {
                field.of(settings).map_or(Ok(()), |duration| Bound::AboveZero.check(name, duration))
            }
            Value::Text(field, empty) => match field.of(settings) {
                Some(text) if text.is_empty() && *empty == Empty::Refused => wrong(&"must not be empty"),
                Some(text) if text.len() > MAX_TEXT_BYTES => wrong(&format_args!("at most {MAX_TEXT_BYTES} bytes")),
                Some(text) if has_control(text) => wrong(&"must not contain control characters"),
                _ => Ok(()),
            },
            Value::File(field) | Value::HiddenFile(field)
                if field.of(settings).as_ref().is_some_and(|file| file.as_os_str().is_empty()) =>
            {
                wrong(&"must not be empty")
            }
            _ => Ok(()),
        }
    }

    /// Checks that the option is for this backend.
    pub(super) fn check_backend(&self, backend: BackendKind) -> Result<()> {
        if self.backends.contains(&backend) {
            Ok(())
        } else {
            Err(LockError::config(format!("{}: not supported by {}", self.name, backend.word())))
        }
    }

    /// Returns whether the value is another one than the default.
    pub(crate) fn is_set(&self, settings: &Settings) -> bool {
        let defaults = &Settings::default();
        match &self.value {
            Value::Flag(field) => field.of(settings) != field.of(defaults),
            Value::Number(field) => field.of(settings) != field.of(defaults),
            Value::Handovers(field) => field.of(settings) != field.of(defaults),
            Value::Database(field) | Value::Permissions(field) => field.of(settings).is_some(),
            Value::Duration(field, _) => field.of(settings) != field.of(defaults),
            Value::SomeDuration(field) => field.of(settings).is_some(),
            Value::Text(field, _) | Value::Word(field) => field.of(settings).is_some(),
            Value::Secret(field) => field.of(settings).is_some(),
            Value::File(field) | Value::HiddenFile(field) => field.of(settings).is_some(),
        }
    }
}

impl<T> Field<T> {
    fn of<'a>(&self, settings: &'a Settings) -> &'a T {
        (self.get)(settings)
    }

    fn of_mut<'a>(&self, settings: &'a mut Settings) -> &'a mut T {
        (self.get_mut)(settings)
    }
}

impl Bound {
    /// Checks a value of the option `name`.
    pub(crate) fn check(self, name: &str, duration: Duration) -> Result<()> {
        if self != Self::None && duration.is_zero() {
            Err(LockError::config(format!("{name}: must be longer than zero")))
        } else if self == Self::Ttl && duration > MAX_TTL {
            Err(LockError::config(format!("{name}: {duration:?} is longer than the maximum, one day")))
        } else {
            Ok(())
        }
    }
}

/// What the permissions of a directory can be: its owner's, and a group's.
const PERMISSIONS: &str = "0700, or 0770 for a group";

fn is_permitted(mode: u32) -> bool {
    [0o700, 0o770].contains(&mode)
}

/// Parses octal permissions.
fn permissions(text: &str) -> Option<u32> {
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && is_permitted(*mode))
}

/// Parses octal permissions in a `Config`.
#[cfg(feature = "serde")]
pub(crate) fn parse_permissions(text: &str) -> Result<u32> {
    permissions(text).ok_or_else(|| LockError::config(format!("mode: expects {PERMISSIONS}")))
}

/// Parses digits only: Rust's parser also accepts `+5`.
pub(super) fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
