//! [`Secret`], [`Credentials`] and [`CredentialsSource`].

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};

/// A text that `Debug` does not show: a password, for example.
///
/// ```
/// let password = leasehold::Secret::from("hunter2");
/// assert_eq!(format!("{password:?}"), "***");
/// assert_eq!(password.expose(), "hunter2");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// From a text only. The error about another value does not quote it, as serde's own would.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        macro_rules! refuse {
            ($($visit:ident: $value:ty),*) => {
                $(fn $visit<E: serde::de::Error>(self, _: $value) -> Result<Secret, E> {
                    Err(E::custom("a secret must be a text; quote it if it is a number"))
                })*
            };
        }

        impl serde::de::Visitor<'_> for Text {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(text.into())
            }

            refuse!(visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64);
        }

        deserializer.deserialize_any(Text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A user name and a password.
///
/// ```
/// let credentials = leasehold::Credentials::new("joe", "hunter2");
/// assert!(!format!("{credentials:?}").contains("hunter2"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    username: String,
    password: Secret,
}

impl Credentials {
    /// Creates credentials. On Redis the user name can be empty: then the password is that of the default user.
    pub fn new(username: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self { username: username.into(), password: password.into() }
    }

    /// Returns the user name.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Returns the password.
    pub fn password(&self) -> &Secret {
        &self.password
    }
}

/// A callback that is asked for credentials at each connection, for passwords and tokens that rotate; see
/// [`LockManagerBuilder::credentials_from`](crate::LockManagerBuilder::credentials_from).
///
/// It is equal to its clones only: managers that are to share a connection need clones of the same source.
#[derive(Clone)]
pub struct CredentialsSource(Arc<dyn Fn() -> BoxFuture<'static, Option<Credentials>> + Send + Sync>);

impl CredentialsSource {
    /// Creates a source from an async callback.
    ///
    /// The callback is polled on the library's background thread, inside its tokio context, and must not block: use
    /// `tokio::task::spawn_blocking` for calls that do. If it takes longer than the manager's
    /// [`timeout`](crate::LockManagerBuilder::timeout), fails or panics, the attempt to connect fails and is repeated like any
    /// other. Its error is neither displayed nor logged, because it may contain a secret.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// use leasehold::{Credentials, CredentialsSource, LockManager};
    ///
    /// async fn fetch_token() -> std::io::Result<String> {
    ///     Ok("token".to_owned()) // from a vault
    /// }
    ///
    /// let source = CredentialsSource::new(|| async { Ok::<_, std::io::Error>(Credentials::new("joe", fetch_token().await?)) });
    /// let builder = LockManager::builder().url("rediss://10.0.0.1").credentials_from(&source);
    /// # drop(builder);
    /// # Ok(()) });
    /// ```
    pub fn new<F, A, E>(ask: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<Credentials, E>> + Send + 'static,
        E: 'static,
    {
        Self(Arc::new(move || ask().map(Result::ok).boxed()))
    }

    /// Calls the callback, which may panic. `None` is a failure.
    #[cfg(any(feature = "etcd", feature = "redis"))]
    pub(crate) fn ask(&self) -> BoxFuture<'static, Option<Credentials>> {
        (self.0)()
    }
}

impl PartialEq for CredentialsSource {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for CredentialsSource {}

impl fmt::Debug for CredentialsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsSource").finish_non_exhaustive()
    }
}
