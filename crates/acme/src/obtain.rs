//! One certificate, from the question to the chain.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::timeout;

use crate::account;
use crate::error::AcmeError;
use crate::files;
use crate::http::Http;
use crate::order::{Ordering, Stored};

/// How long one attempt may take; what it began lies on disk, and the next one takes it up.
const ATTEMPT: Duration = Duration::from_secs(180);

/// Who signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Address of its directory, by https.
    pub directory: String,
    /// Whom it may write to.
    pub email: Option<String>,
    /// File of the root certificates that it is known by, PEM; none: those that this machine trusts.
    pub root: Option<PathBuf>,
}

/// A certificate that is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who signs.
    pub authority: Authority,
    /// The name that it is for.
    pub host: String,
    /// Where account and order are kept; one folder for each authority.
    pub folder: PathBuf,
    /// Where the answers to challenges lie, each in a file named as its token. They must be served from there.
    pub challenges: PathBuf,
}

/// Whether an order may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// If none is under way.
    IfNeeded,
    /// No: only what is under way is taken up. A process that dies again and again must not make one each time.
    Never,
}

impl Asked {
    /// Returns the chain and its key in PEM. The order lies on disk before its challenges are answered, its key before it
    /// is finalized: whoever asks next goes on from there.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any point; the next call takes the order up.
    pub async fn obtain(&self, begin: Begin) -> Result<String, AcmeError> {
        let http = Http::new(self.authority.root.as_deref())?;
        let work = async {
            let account = account::ensure(&self.folder, &self.authority, &http).await?;
            Ordering { asked: self, account: &account, http: &http }.run(begin).await
        };
        match timeout(ATTEMPT, work).await {
            Ok(done) => done,
            Err(_) => Err(AcmeError::new(format!(
                "get a certificate for {} from {}: not done within {}s; it is taken up again",
                self.host,
                self.authority.directory,
                ATTEMPT.as_secs()
            ))),
        }
    }

    /// Tells whether an order is under way.
    pub fn has_order(&self) -> bool {
        self.order_file().exists()
    }

    /// Forgets the order that is under way, and its challenges: its certificate is in use, or it can come to nothing.
    pub fn forget_order(&self) -> io::Result<()> {
        if let Some(stored) = files::load::<Stored>(&self.order_file()) {
            for token in stored.tokens {
                files::forget(&self.challenges.join(token))?;
            }
        }
        files::forget(&self.order_file())
    }

    pub(crate) fn order_file(&self) -> PathBuf {
        self.folder.join(format!("{}.order.json", self.host))
    }
}
