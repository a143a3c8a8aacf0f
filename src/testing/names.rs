//! The names of locks on etcd, for the fuzz targets.

use crate::backend::etcd::names::Names;

/// The encoding of lock keys on etcd.
#[derive(Debug)]
pub struct EtcdNames(Names);

impl EtcdNames {
    /// Creates the names below a prefix.
    pub fn new(prefix: &str) -> Self {
        Self(Names::new(prefix.into()))
    }

    /// Returns the first name of a lock's directory, and the end of the directory.
    pub fn directory(&self, key: &str) -> (Vec<u8>, Vec<u8>) {
        let directory = self.0.directory(key);
        (directory.start(), directory.end())
    }

    /// Returns the first name of all locks whose keys begin with `prefix`, and the end of the range.
    pub fn range(&self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        self.0.range(prefix)
    }

    /// Returns the key that a name belongs to, and the name below its directory.
    pub fn decode(&self, name: &[u8]) -> Option<(String, Vec<u8>)> {
        self.0.decode(name).map(|(key, child)| (key, child.to_vec()))
    }
}
