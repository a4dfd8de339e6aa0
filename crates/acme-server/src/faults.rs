//! What goes wrong on demand.

use crate::Shared;

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The list of addresses.
    Directory,
    /// Where nonces are.
    NewNonce,
    /// Where accounts are made.
    NewAccount,
    /// Where orders are made.
    NewOrder,
    /// An account.
    Account,
    /// An order.
    Order,
    /// An authorization.
    Authorization,
    /// A challenge.
    Challenge,
    /// Where an order is finalized.
    Finalize,
    /// A certificate.
    Certificate,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its nonce is not accepted; the answer brings another one.
    BadNonce,
    /// It is answered with this status, and a page that no ACME server would write.
    Status(u16),
    /// It is one too many, says a problem; ask again after so many seconds.
    RateLimited(u64),
    /// It takes effect, and the connection ends before the answer.
    LostAnswer,
    /// Its connection ends before it takes effect.
    Refused,
    /// It is never answered.
    Hang,
    /// The certificate is none: what is answered is no PEM.
    Garbage,
}

impl Shared {
    /// Takes the fault that is meant for a request, if there is one.
    pub(crate) fn take_fault(&self, place: Place) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let at = faults.iter().position(|(other, _)| *other == place)?;
        Some(faults.remove(at).1)
    }
}
