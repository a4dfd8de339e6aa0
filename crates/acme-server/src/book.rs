//! Everything the server remembers.

use std::collections::{HashMap, HashSet};

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::Seen;
use crate::jws::Jwk;
use crate::problem::Problem;

/// Accounts, orders and nonces.
#[derive(Debug, Default)]
pub(crate) struct Book {
    nonces: HashSet<String>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) orders: Vec<Order>,
    pub(crate) certificates: HashMap<usize, String>,
    /// Names of certificates, by which clients ask when to renew them.
    pub(crate) named: Vec<String>,
    pub(crate) seen: Seen,
    /// Numbers before it belong to what was forgotten.
    first: usize,
}

#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) id: usize,
    pub(crate) key: Jwk,
    pub(crate) contact: Vec<String>,
}

/// An order with its authorizations, one for each name, each with one challenge.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) id: usize,
    pub(crate) account: usize,
    pub(crate) status: Status,
    pub(crate) proofs: Vec<Proof>,
}

#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) host: String,
    pub(crate) token: String,
    pub(crate) status: Status,
    pub(crate) problem: Option<Problem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Ready => "ready",
            Status::Processing => "processing",
            Status::Valid => "valid",
            Status::Invalid => "invalid",
        }
    }
}

pub(crate) fn random() -> String {
    let mut bytes = [0; 24];
    SystemRandom::new().fill(&mut bytes).unwrap();
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Book {
    pub(crate) fn nonce(&mut self) -> String {
        let nonce = random();
        self.nonces.insert(nonce.clone());
        nonce
    }

    /// Each nonce is good once.
    pub(crate) fn use_nonce(&mut self, nonce: &str) -> Result<(), Problem> {
        if self.nonces.remove(nonce) {
            Ok(())
        } else {
            Err(Problem::new(400, "badNonce", "this nonce was not given, or was used before"))
        }
    }

    pub(crate) fn next_id(&self) -> usize {
        self.first + self.accounts.len() + self.orders.len() + 1
    }

    /// Returns an order of an account; that of another one is none of its business.
    pub(crate) fn order(&mut self, id: usize, account: usize) -> Result<&mut Order, Problem> {
        let found = self.orders.iter_mut().find(|order| order.id == id);
        let order = found.ok_or_else(|| Problem::new(404, "malformed", "no such order"))?;
        if order.account != account {
            return Err(Problem::new(403, "unauthorized", "this order is another account's"));
        }
        Ok(order)
    }

    pub(crate) fn forget(&mut self) {
        self.first = self.next_id();
        self.accounts.clear();
        self.orders.clear();
        self.certificates.clear();
    }
}

impl Order {
    pub(crate) fn json(&self, base: &str) -> Value {
        let id = self.id;
        let names: Vec<Value> =
            self.proofs.iter().map(|proof| json!({"type": "dns", "value": proof.host})).collect();
        let proofs: Vec<String> =
            (0..self.proofs.len()).map(|at| format!("{base}/authz/{id}/{at}")).collect();
        let mut order = json!({
            "status": self.status.name(),
            "expires": "2090-01-01T00:00:00Z",
            "identifiers": names,
            "authorizations": proofs,
            "finalize": format!("{base}/finalize/{id}"),
        });
        if self.status == Status::Valid {
            order["certificate"] = json!(format!("{base}/cert/{id}"));
        }
        order
    }

    pub(crate) fn proof_json(&self, base: &str, at: usize) -> Value {
        let proof = &self.proofs[at];
        // An authorization is never processing; only its challenge is.
        let status = if proof.status == Status::Processing { Status::Pending } else { proof.status };
        json!({
            "status": status.name(),
            "identifier": {"type": "dns", "value": proof.host},
            "expires": "2090-01-01T00:00:00Z",
            "challenges": [
                // One that the client cannot answer: it must choose.
                {"type": "dns-01", "url": format!("{base}/none"), "status": "pending", "token": "AAAA"},
                self.challenge_json(base, at),
            ],
        })
    }

    pub(crate) fn challenge_json(&self, base: &str, at: usize) -> Value {
        let proof = &self.proofs[at];
        let mut challenge = json!({
            "type": "http-01",
            "url": format!("{base}/chall/{}/{at}", self.id),
            "status": proof.status.name(),
            "token": proof.token,
        });
        if let Some(problem) = &proof.problem {
            challenge["error"] = problem.json();
        }
        challenge
    }
}
