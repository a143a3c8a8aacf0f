//! Options from a file and the environment.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Config;
use crate::error::{LockError, Result};
use crate::process::report::warn;
use crate::settings::validate;

impl Config {
    /// Loads the options from a file and the environment, and validates them.
    ///
    /// Environment variables override the file, and the file overrides the defaults.
    ///
    /// The file is YAML or TOML, according to its extension. `section` is the path of the options in it, `"locks"` or
    /// `"services.locks"` for example; an empty `section` means the whole file. A missing file or section is logged as a warning.
    ///
    /// The variables are `<ENV_PREFIX>_<SECTION>_<FIELD>` in upper case, `SHOP_LOCKS_RETRY_INTERVAL=50ms` for example; lists are
    /// separated by commas. An empty `env_prefix` or `section` is omitted from the name; if both are empty, the environment is not
    /// read.
    ///
    /// ```no_run
    /// # leasehold::doctest(async {
    /// use leasehold::{Config, LockManager};
    ///
    /// let manager = LockManager::from_config(Config::load("config.yaml", "locks", "SHOP")?).await?;
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidConfig`] if a field or a variable is unknown or has an invalid value, with its name, and if the file
    /// cannot be read.
    pub fn load(path: impl AsRef<Path>, section: &str, env_prefix: &str) -> Result<Self> {
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self::layered(path.as_ref(), section, env_prefix, variables)
    }

    /// The same, with these variables as the environment.
    pub(crate) fn layered(
        path: &Path,
        section: &str,
        env_prefix: &str,
        variables: impl Iterator<Item = (String, std::ffi::OsString)>,
    ) -> Result<Self> {
        let mut fields = from_file(path, section)?;
        let parts: Vec<_> = [env_prefix, section].into_iter().filter(|part| !part.is_empty()).collect();
        let begin =
            format!("{}_", parts.join("_").replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_ascii_uppercase());
        for (name, value) in variables.filter(|_| !parts.is_empty()) {
            let Some(field) = name.strip_prefix(&begin) else { continue };
            let text = value.into_string().map_err(|_| LockError::config(format!("{name}: not valid UTF-8")))?;
            let field = field.to_ascii_lowercase();
            let value = match &*field {
                "endpoints" => config::ValueKind::from(list(&text)),
                _ => config::ValueKind::from(text),
            };
            fields.insert(field, config::Value::new(Some(&name), value));
        }
        let whole = config::Value::new(None, config::ValueKind::from(fields));
        let loaded = Self::deserialize(whole).map_err(|error| LockError::config(error.to_string()))?;
        let settings = loaded.settings()?;
        validate(&settings, settings.backend)?;
        Ok(loaded)
    }
}

type Fields = config::Map<String, config::Value>;

fn from_file(path: &Path, section: &str) -> Result<Fields> {
    let refused = |error: config::ConfigError| {
        // The parser may quote a line with the password; the first line of its message has only the position.
        let text = match &error {
            config::ConfigError::FileParse { cause, .. } => cause.to_string(),
            error => error.to_string(),
        };
        LockError::config(format!("{}: {}", path.display(), text.lines().next().unwrap_or_default()))
    };
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let format = match &*extension.to_ascii_lowercase() {
        "yaml" | "yml" => config::FileFormat::Yaml,
        "toml" => config::FileFormat::Toml,
        _ => return Err(LockError::config(format!("{}: the extension must be .yaml, .yml or .toml", path.display()))),
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            warn!(target: "leasehold", "the configuration file {} does not exist", path.display());
            return Ok(Fields::default());
        }
        Err(error) => return Err(LockError::config(format!("{}: {error}", path.display()))),
    };
    let source = config::File::from_str(&text, format);
    let file = config::Config::builder().add_source(source).build().map_err(refused)?;
    if section.is_empty() {
        return file.cache.into_table().map_err(refused);
    }
    match file.get::<Option<IgnoredAny>>(section) {
        Ok(Some(_)) => file.get_table(section).map_err(refused),
        Ok(None) | Err(config::ConfigError::NotFound(_)) => {
            warn!(target: "leasehold", "the section {section:?} does not exist in {}", path.display());
            Ok(Fields::default())
        }
        Err(error) => Err(refused(error)),
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}
