//! A certificate authority of the tests.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// Signs certificates.
pub(super) struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// The files that a client's URL names.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = params(name, false);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Signs a certificate that is valid for a server on this machine and for a client.
    pub(super) fn sign(&self, name: &str) -> Identity {
        self.signed(params(name, false))
    }

    /// Signs an expired certificate.
    pub(super) fn sign_expired(&self, name: &str) -> Identity {
        self.signed(params(name, true))
    }

    /// Signs a certificate for a server of another name.
    pub(super) fn sign_for_host(&self, host: &str) -> Identity {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.signed(params)
    }

    fn signed(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    /// Writes the files of a client that has this identity and trusts this authority.
    pub(super) fn write(&self, folder: &Path, name: &str, identity: &Identity) -> Files {
        let path = |kind: &str| folder.join(format!("{name}-{kind}.pem"));
        let files = Files { ca: path("ca"), cert: path("cert"), key: path("key") };
        std::fs::write(&files.ca, &self.certificate).unwrap();
        std::fs::write(&files.cert, &identity.certificate).unwrap();
        std::fs::write(&files.key, &identity.key).unwrap();
        files
    }
}

fn params(name: &str, expired: bool) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    if expired {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    params
}
