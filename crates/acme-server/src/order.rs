//! Orders (RFC 8555, 7.4 and 7.5).

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::Shared;
use crate::book::{Order, Proof, Status, random};
use crate::http::{Answer, located};
use crate::jws::{Signed, decode};
use crate::problem::Problem;
use crate::validate::{lag, look_at};

pub(crate) fn make(shared: &Shared, signed: &Signed, account: usize) -> Result<Answer, Problem> {
    let wanted = signed.json()?;
    let names = wanted["identifiers"].as_array().filter(|names| !names.is_empty());
    let names = names.ok_or_else(|| Problem::malformed("an order needs identifiers"))?;
    let mut proofs = Vec::new();
    for name in names {
        let host = name["value"].as_str().filter(|_| name["type"] == json!("dns"));
        let host =
            host.ok_or_else(|| Problem::new(400, "unsupportedIdentifier", "only names are signed for"))?;
        if host.contains(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.' && letter != '-') {
            return Err(Problem::new(400, "rejectedIdentifier", format!("{host} is no name")));
        }
        let (host, token) = (host.to_owned(), random());
        proofs.push(Proof { host, token, status: Status::Pending, problem: None });
    }
    let mut book = shared.book();
    let order = Order { id: book.next_id(), account, status: Status::Pending, proofs };
    let url = format!("{}/order/{}", shared.base, order.id);
    let answer = located(StatusCode::CREATED, &url, &order.json(&shared.base));
    book.orders.push(order);
    book.seen.orders += 1;
    Ok(answer)
}

pub(crate) fn read(shared: &Shared, signed: &Signed, id: usize, account: usize) -> Result<Answer, Problem> {
    signed.reads()?;
    Ok(Response::new(shared.book().order(id, account)?.json(&shared.base)))
}

pub(crate) fn read_proof(
    shared: &Shared,
    signed: &Signed,
    (id, at): (usize, usize),
    account: usize,
) -> Result<Answer, Problem> {
    signed.reads()?;
    let mut book = shared.book();
    let order = book.order(id, account)?;
    if at >= order.proofs.len() {
        return Err(Problem::new(404, "malformed", "no such authorization"));
    }
    Ok(Response::new(order.proof_json(&shared.base, at)))
}

/// Begins to look at a challenge; one that was looked at stays as it is.
pub(crate) fn answer_challenge(
    shared: &Arc<Shared>,
    signed: &Signed,
    (id, at): (usize, usize),
    account: usize,
) -> Result<Answer, Problem> {
    if !signed.json()?.is_object() {
        return Err(Problem::malformed("a challenge is answered with {}"));
    }
    let mut book = shared.book();
    let thumbprint = book.accounts.iter().find(|own| own.id == account).map(|own| own.key.thumbprint());
    let order = book.order(id, account)?;
    if at >= order.proofs.len() {
        return Err(Problem::new(404, "malformed", "no such challenge"));
    }
    if order.proofs[at].status == Status::Pending {
        order.proofs[at].status = Status::Processing;
        tokio::spawn(look_at(shared.clone(), id, at, thumbprint.unwrap_or_default()));
    }
    let answer = Response::new(order.challenge_json(&shared.base, at));
    book.seen.told += 1;
    Ok(answer)
}

/// Takes the request for a certificate of an order that is ready, and of no other.
pub(crate) fn finalize(
    shared: &Arc<Shared>,
    signed: &Signed,
    id: usize,
    account: usize,
) -> Result<Answer, Problem> {
    let wanted: Value = signed.json()?;
    let csr = decode(wanted["csr"].as_str().ok_or_else(|| Problem::malformed("a csr is wanted"))?)?;
    let life = shared.behaviour().life;
    let mut book = shared.book();
    let order = book.order(id, account)?;
    if order.status != Status::Ready {
        let text = format!("the order is {}", order.status.name());
        return Err(Problem::new(403, "orderNotReady", text));
    }
    let names: Vec<&str> = order.proofs.iter().map(|proof| proof.host.as_str()).collect();
    let (chain, name) = shared.signer.sign(&csr, &names, life)?;
    order.status = Status::Processing;
    tokio::spawn(complete(shared.clone(), id, chain));
    let answer = Response::new(order.json(&shared.base));
    book.named.push(name);
    Ok(answer)
}

async fn complete(shared: Arc<Shared>, id: usize, chain: String) {
    lag(&shared, |behaviour| behaviour.signing_lag).await;
    let mut book = shared.book();
    if let Some(order) = book.orders.iter_mut().find(|order| order.id == id) {
        order.status = Status::Valid;
        book.certificates.insert(id, chain);
        book.seen.signed += 1;
    }
}
