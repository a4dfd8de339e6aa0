//! The authority's own certificates, and those that it signs: a root, an authority below it, and the leaf.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::problem::Problem;
use crate::renewal::name_of;

#[derive(Debug)]
pub(crate) struct Signer {
    root: CertificateDer<'static>,
    between: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let named = |name: &str| {
            let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            (params, KeyPair::generate().unwrap())
        };
        let (root_params, root_key) = named("test root");
        let root = root_params.self_signed(&root_key).unwrap().der().clone();
        let root_issuer = Issuer::new(root_params, root_key);
        let (params, key) = named("test authority");
        let between = params.signed_by(&key, &root_issuer).unwrap().der().clone();
        Self { root, between, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn root_pem(&self) -> String {
        pem(&self.root)
    }

    pub(crate) fn root_der(&self) -> Vec<u8> {
        self.root.to_vec()
    }

    /// Returns the chain and key of the server's own HTTPS.
    pub(crate) fn own(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialized_der().to_vec()));
        (vec![leaf, self.between.clone()], key)
    }

    /// Signs a request that is for exactly these names, and whose signature proves the key; returns chain and name.
    pub(crate) fn sign(
        &self,
        csr: &[u8],
        names: &[&str],
        life: (u64, u64),
    ) -> Result<(String, String), Problem> {
        let bad = |text: String| Problem::new(400, "badCSR", text);
        let csr = CertificateSigningRequestDer::from(csr);
        let mut request =
            CertificateSigningRequestParams::from_der(&csr).map_err(|error| bad(error.to_string()))?;
        let asked = request.params.subject_alt_names.iter().map(|name| match name {
            SanType::DnsName(name) => name.as_str().to_owned(),
            other => format!("{other:?}"),
        });
        let (mut asked, mut wanted) = (asked.collect::<Vec<_>>(), names.to_vec());
        asked.sort();
        wanted.sort_unstable();
        if asked != wanted {
            return Err(bad(format!("the request is for {asked:?}, the order for {wanted:?}")));
        }
        let now = SystemTime::now();
        request.params.not_before = (now - Duration::from_secs(life.0)).into();
        request.params.not_after = (now + Duration::from_secs(life.1)).into();
        request.params.use_authority_key_identifier_extension = true;
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = request.signed_by(&self.issuer).map_err(|error| bad(error.to_string()))?;
        Ok((pem(leaf.der()) + &pem(&self.between), name_of(leaf.der())))
    }
}

fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
