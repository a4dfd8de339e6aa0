//! An order: begun or taken up, proved by challenges, finalized with a key that lies on disk.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeStatus, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::account::forget_if_unknown;
use crate::error::{AcmeError, kind, said};
use crate::files;
use crate::http::Http;
use crate::obtain::{Asked, Begin};

/// How long until the authority is asked for the first time how far it is; twice as long each time, up to [`SLOWEST`].
const LOOK: Duration = Duration::from_millis(250);
const SLOWEST: Duration = Duration::from_secs(8);

/// What is kept of an order.
#[derive(Serialize, Deserialize)]
pub(crate) struct Stored {
    url: String,
    /// The certificate's key, PKCS#8.
    key: Vec<u8>,
    /// Of its challenges, whose answers go with it.
    #[serde(default)]
    pub(crate) tokens: Vec<String>,
}

/// Gets one certificate.
pub(crate) struct Ordering<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) account: &'a Account,
    pub(crate) http: &'a Http,
}

impl Ordering<'_> {
    pub(crate) async fn run(&self, begin: Begin) -> Result<String, AcmeError> {
        let (mut order, mut stored) = match self.take_up().await? {
            Some(found) => found,
            None if begin == Begin::Never => {
                return Err(
                    self.wrong("the order that was under way when the worker ended is not good any more")
                );
            }
            None => self.begin().await?,
        };
        let key = self.key_of(&stored)?;
        self.prove(&mut order, &mut stored).await?;
        if order.state().status == OrderStatus::Ready {
            let csr = self.csr(&key)?;
            order.finalize_csr(&csr).await.map_err(|error| self.failed("finalize the order", &error))?;
        }
        let chain = self.fetch(&mut order).await?;
        Ok(format!("{}\n{}", chain.trim_end(), key.serialize_pem()))
    }

    /// Returns the order that is under way, if the authority still knows it as good.
    async fn take_up(&self) -> Result<Option<(Order, Stored)>, AcmeError> {
        let Some(stored) = files::load::<Stored>(&self.asked.order_file()) else { return Ok(None) };
        match self.account.order(stored.url.clone()).await {
            Ok(mut order) => {
                if order.state().status != OrderStatus::Invalid {
                    return Ok(Some((order, stored)));
                }
            }
            // It has forgotten it, or says that it is another account's.
            Err(Error::Api(problem)) if matches!(kind(&problem), "malformed" | "unauthorized") => {}
            Err(error) => return Err(self.failed("take up the order", &error)),
        }
        self.forget()?;
        Ok(None)
    }

    async fn begin(&self) -> Result<(Order, Stored), AcmeError> {
        let key = KeyPair::generate().map_err(|error| self.wrong(&format!("make a key: {error}")))?;
        let names = [Identifier::Dns(self.asked.host.clone())];
        let order = self.account.new_order(&NewOrder::new(&names)).await;
        let order = order.map_err(|error| self.failed("order a certificate", &error))?;
        let stored =
            Stored { url: order.url().to_owned(), key: key.serialized_der().to_vec(), tokens: Vec::new() };
        self.write(|asked| files::store(&asked.order_file(), &stored))?;
        Ok((order, stored))
    }

    /// Answers the challenges and waits until the authority has looked. The answers stay until the order is done: when it
    /// is not known whether the authority was told, it may look at any time.
    async fn prove(&self, order: &mut Order, stored: &mut Stored) -> Result<(), AcmeError> {
        let mut authorizations = order.authorizations();
        while let Some(next) = authorizations.next().await {
            let mut authorization = next.map_err(|error| self.failed("read the authorization", &error))?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let Some(mut challenge) = authorization.challenge(ChallengeType::Http01) else {
                return Err(self.wrong("the authority offers no HTTP-01, which is all that is supported"));
            };
            let token = challenge.token.clone();
            // It becomes the name of a file.
            if token.is_empty()
                || !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            {
                return Err(self.wrong("the authority gave a token that RFC 8555 does not allow"));
            }
            let answer = challenge.key_authorization();
            let file = self.asked.challenges.join(&token);
            if !stored.tokens.contains(&token) {
                stored.tokens.push(token);
                self.write(|asked| files::store(&asked.order_file(), stored))?;
            }
            // Before the authority is told that it may look.
            self.write(|_| files::store_private(&file, answer.as_str().as_bytes()))?;
            if challenge.status == ChallengeStatus::Pending {
                challenge.set_ready().await.map_err(|error| self.failed("answer the challenge", &error))?;
            }
        }
        self.until(order, |status| status != OrderStatus::Pending).await?;
        if order.state().status == OrderStatus::Invalid {
            let why = self.why_invalid(order).await;
            self.forget()?;
            return Err(why);
        }
        Ok(())
    }

    /// Asks again and again how far the order is.
    async fn until(&self, order: &mut Order, done: impl Fn(OrderStatus) -> bool) -> Result<(), AcmeError> {
        let mut pause = LOOK;
        while !done(order.state().status) {
            sleep(pause).await;
            pause = (pause * 2).min(SLOWEST);
            order.refresh().await.map_err(|error| self.failed("see how far the order is", &error))?;
        }
        Ok(())
    }

    /// Returns what the authority found when it looked.
    async fn why_invalid(&self, order: &mut Order) -> AcmeError {
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let Ok(state) = authorization.refresh().await else { continue };
            if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
                return self.wrong(&said(problem));
            }
        }
        match &order.state().error {
            Some(problem) => self.wrong(&said(problem)),
            None => self.wrong("the authority gave the order up and does not say why; it is asked again"),
        }
    }

    async fn fetch(&self, order: &mut Order) -> Result<String, AcmeError> {
        self.until(order, |status| status != OrderStatus::Processing).await?;
        match order.certificate().await {
            Ok(Some(chain)) => Ok(chain),
            Ok(None) => Err(self.wrong("the authority is not done yet; it is asked again")),
            Err(error) => {
                if order.state().status == OrderStatus::Invalid {
                    self.forget()?;
                }
                Err(self.failed("fetch the certificate", &error))
            }
        }
    }

    fn csr(&self, key: &KeyPair) -> Result<Vec<u8>, AcmeError> {
        let made = CertificateParams::new(vec![self.asked.host.clone()]).and_then(|mut params| {
            params.distinguished_name = DistinguishedName::new();
            params.serialize_request(key)
        });
        let made =
            made.map_err(|error| self.wrong(&format!("make the request for a certificate: {error}")))?;
        Ok(made.der().to_vec())
    }

    fn key_of(&self, stored: &Stored) -> Result<KeyPair, AcmeError> {
        let der = PrivatePkcs8KeyDer::from(stored.key.as_slice());
        KeyPair::try_from(&der).map_err(|error| self.wrong(&format!("read the key of the order: {error}")))
    }

    fn forget(&self) -> Result<(), AcmeError> {
        self.write(Asked::forget_order)
    }

    fn write(&self, write: impl Fn(&Asked) -> std::io::Result<()>) -> Result<(), AcmeError> {
        let (folder, challenges) = (self.asked.folder.display(), self.asked.challenges.display());
        write(self.asked).map_err(|error| {
            self.wrong(&format!(
                "cannot write below {folder} or {challenges} ({error}); let the proxy's user do so"
            ))
        })
    }

    fn wrong(&self, why: &str) -> AcmeError {
        AcmeError::new(format!("get a certificate for {}: {why}", self.asked.host))
    }

    fn failed(&self, doing: &str, error: &Error) -> AcmeError {
        forget_if_unknown(&self.asked.folder, error);
        let doing = format!("get a certificate for {}: {doing}", self.asked.host);
        AcmeError::of(&doing, error).with_again_after(self.http.again_after())
    }
}
